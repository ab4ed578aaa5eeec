"""What happens to a picture on its way: light, age, motion, sensors, compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SEPIA = np.array([1.07, 0.9, 0.68], np.float32)


@dataclass(frozen=True)
class Wear:
    """How much of what: ``brightness``, ``contrast``, ``saturation`` and ``tint`` vary in every picture by up to this;
    the others are shares of pictures, 0 switches one off.

    ``grey``: without colour. ``old``: sepia or faded, with scratches and dark corners. ``low_light``: dark, and noisy
    in the dark. ``blown``: highlights at the end of the scale. ``motion``: blurred along a line. ``small``: enlarged
    from a third to an eighth of its size, as a far face is. ``soft``: out of focus. ``noise``: of the sensor, coarse
    and coloured. ``blocks``: saved as a bad JPEG.
    """

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    tint: float = 0.08
    grey: float = 0.05
    old: float = 0.04
    low_light: float = 0.06
    blown: float = 0.06
    motion: float = 0.05
    small: float = 0.08
    soft: float = 0.05
    noise: float = 0.10
    blocks: float = 0.10

    @classmethod
    def none(cls, **but: float) -> Wear:
        """Nothing of it, but what is said."""
        return cls(**{name: but.get(name, 0.0) for name in cls.__dataclass_fields__})


def worn(pixels: np.ndarray, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    """``pixels``, float32 [H, W, 3] in 0..1, after what ``wear`` says; of the same shape and range."""

    def chance(share: float) -> bool:
        return bool(share and rng.random() < share)

    x = pixels
    if chance(wear.motion):
        x = moved(x, rng.uniform(3, 0.04 * x.shape[1] + 4), rng.uniform(0, np.pi))
    if chance(wear.soft):
        x = _as_picture(x, lambda picture: picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 2.5))))
    if chance(wear.small):
        x = enlarged(x, rng.uniform(0.12, 0.4))
    grey = (x @ _LUMA)[..., None]
    saturation = 0.0 if chance(wear.grey) else 1 + rng.uniform(-1, 1) * wear.saturation
    x = grey + (x - grey) * np.float32(saturation)
    mean = grey.mean()
    x = mean + (x - mean) * np.float32(1 + rng.uniform(-1, 1) * wear.contrast)
    x = x * np.float32(1 + rng.uniform(-1, 1) * wear.brightness)
    if wear.tint:
        x = x * rng.uniform(1 - wear.tint, 1 + wear.tint, 3).astype(np.float32)
    x = x.clip(0, 1)
    if chance(wear.old):
        x = aged(x, rng)
    if chance(wear.low_light):
        x = darkened(x, rng)
    elif chance(wear.blown):
        x = (x * np.float32(rng.uniform(1.4, 2.6)) + np.float32(rng.uniform(0, 0.1))).clip(0, 1)
    if chance(wear.noise):
        x = noised(x, rng.uniform(0.01, 0.08), rng)
    if chance(wear.blocks):
        x = compressed(x, int(rng.integers(8, 45)))
    return x.clip(0, 1).astype(np.float32, copy=False)


def moved(pixels: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Blurred along a line of ``length`` pixels at ``angle`` (radians)."""
    steps = np.linspace(-0.5, 0.5, max(2, round(length))) * length
    total = np.zeros_like(pixels)
    for step in steps:
        shift = round(step * np.sin(angle)), round(step * np.cos(angle))
        total += np.roll(pixels, shift, (0, 1))
    return total / len(steps)


def enlarged(pixels: np.ndarray, scale: float) -> np.ndarray:
    """As if it had been taken at ``scale`` of its size, and enlarged."""
    height, width = pixels.shape[:2]
    low = max(8, round(width * scale)), max(8, round(height * scale))
    box, bicubic = Image.Resampling.BOX, Image.Resampling.BICUBIC
    return _as_picture(pixels, lambda p: p.resize(low, box).resize((width, height), bicubic))


def aged(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An old photograph: one colour, faded, its corners dark, a scratch or two."""
    height, width = pixels.shape[:2]
    x = np.repeat((pixels @ _LUMA)[..., None], 3, 2)
    if rng.random() < 0.7:
        x = x * _SEPIA
    x = rng.uniform(0.05, 0.25) + x * rng.uniform(0.55, 0.8)
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    x = x * (1 - rng.uniform(0, 0.45) * (down**2 + across**2)[..., None] / 2)
    for _ in range(rng.integers(0, 3)):
        column = int(rng.integers(width))
        x[:, column : column + int(rng.integers(1, 3))] += rng.uniform(0.1, 0.4)
    return x.clip(0, 1).astype(np.float32)


def darkened(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Taken in low light: dark, and noisy."""
    x = pixels ** np.float32(rng.uniform(1.2, 2.2)) * np.float32(rng.uniform(0.35, 0.8))
    return noised(x, rng.uniform(0.01, 0.05), rng)


def noised(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """With the noise of a sensor; coarse half the time, as telephones leave it."""
    height, width = pixels.shape[:2]
    coarse = int(rng.choice([1, 2]))
    noise = rng.standard_normal((-(-height // coarse), -(-width // coarse), 3), dtype=np.float32)
    noise = noise.repeat(coarse, 0).repeat(coarse, 1)[:height, :width]
    return (pixels + noise * np.float32(deviation)).clip(0, 1)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    """As a JPEG of this quality (1..95) has it."""

    def through(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _as_picture(pixels, through)


def _as_picture(pixels: np.ndarray, change) -> np.ndarray:
    picture = Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(change(picture), np.float32) / 255
