"""Training pictures: portraits and other labelled pictures placed on backgrounds, and what life does to them.

The geometry of a picture and its mask, and the composition of scenes, are here; what lies before a face is drawn by
``covers``, what happens to colours and sharpness by ``wear``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from faceparse_core.labels import PAIRS, region_ids
from faceparse_core.training import covers
from faceparse_core.training.wear import Wear, worn

_HEAD = [*region_ids("hair + hat + eyeglasses")]
_OUTSIDE = 253  # marks in a warped mask what lies beyond the picture
_MEAN = (124, 116, 104)  # the colour around pictures whose proportions are kept: ImageNet's mean


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied. Shares are of the pictures in a batch, ranges are uniform; 0 switches a thing off.

    ``scenes`` is the share of portraits in which the face does not fill the frame: one or several, each between
    ``scene_scale`` of the frame, over a background picture. ``empty`` is the share without any face. ``covered``:
    faces with something before them (a surgical mask, a hand or arm, a thing). ``wear``: what happens to the picture.
    """

    mirror: float = 0.5
    rotation: float = 20.0
    strong_tilt: float = 0.15
    strong_rotation: float = 60.0
    any_tilt: float = 0.03
    zoom: tuple[float, float] = (0.8, 1.6)
    stretch: float = 0.1
    shift: float = 0.15
    scenes: float = 0.3
    scene_scale: tuple[float, float] = (0.15, 0.9)
    empty: float = 0.05
    cut_out: float = 0.15
    covered: float = 0.25
    wear: Wear = field(default_factory=Wear)


# The published SegFormer recipe: portraits as they are, mirrored, with colour jitter.
PLAIN = Augmentation(
    rotation=0.0,
    strong_tilt=0.0,
    any_tilt=0.0,
    zoom=(1.0, 1.0),
    stretch=0.0,
    shift=0.0,
    scenes=0.0,
    empty=0.0,
    cut_out=0.0,
    covered=0.0,
    wear=Wear.none(brightness=0.3, contrast=0.3, saturation=0.4),
)


class Painter:
    """Paints one training picture after another.

    ``draw(rng, framing)`` gives a picture (RGB) and its mask (grey) of that framing; ``backgrounds`` are pictures
    without people.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        rng: np.random.Generator,
        size: int,
        draw: Callable[[np.random.Generator, str], tuple[Image.Image, Image.Image]],
        backgrounds: list[Image.Image],
    ):
        self.a, self.rng, self.size, self.draw, self.backgrounds = augmentation, rng, size, draw, backgrounds

    def picture(self, framing: str) -> tuple[np.ndarray, np.ndarray]:
        """Pixels, float32 [S, S, 3] in 0..1, and labels, uint8 [S, S]."""
        if self._chance(self.a.empty):
            pixels, labels = self._background(), np.zeros((self.size, self.size), np.uint8)
        elif framing == "picture":
            pixels, labels = self._view()
        elif self._chance(self.a.scenes):
            pixels, labels = self._scene()
        else:
            pixels, labels = self._portrait()
        return worn(pixels.astype(np.float32) / 255, self.a.wear, self.rng), labels

    def _portrait(self) -> tuple[np.ndarray, np.ndarray]:
        """One face that fills the frame, or more."""
        zoom = self._uniform(*self.a.zoom)
        shift = self._uniform(-1, 1, 2) * self.a.shift * max(1.0, zoom)
        return self._placed([(zoom, shift, self._chance(self.a.cut_out))])

    def _scene(self) -> tuple[np.ndarray, np.ndarray]:
        """One or several faces at their own scales; what comes later lies before the others."""
        places = []
        for _ in range(self.rng.choice([1, 2, 3, 4], p=[0.5, 0.25, 0.15, 0.1])):
            zoom = math.exp(self._uniform(*np.log(self.a.scene_scale)))
            places.append((zoom, self._uniform(-1, 1, 2) * max(0.1, 1 - 0.7 * zoom), self._chance(0.5)))
        return self._placed(places)

    def _placed(self, places) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = self._background(), np.zeros((self.size, self.size), np.uint8)
        for zoom, shift, cut_out in places:
            image, mask = self.draw(self.rng, "face")
            if self._chance(self.a.covered):
                image, mask = covers.cover(image, mask, self.rng, self._background_picture)
            # Zoom 1: the longer side of the portrait is the frame's.
            scale = max(image.size) / (self.size * zoom)
            centre = np.array(image.size) / 2 - shift * self.size / 2 * scale
            piece, told = self._warped(image, mask, scale, centre)
            inside = told != _OUTSIDE
            if cut_out and self.backgrounds:
                inside &= told > 0
            pixels[inside], labels[inside] = piece[inside], told[inside]
        return pixels, labels

    def _view(self) -> tuple[np.ndarray, np.ndarray]:
        """A picture that is no portrait: the whole of it, or the part around a head."""
        image, mask = self.draw(self.rng, "picture")
        centre, extent = np.array(image.size) / 2, max(image.size) / self._uniform(0.75, 1.3)
        if self._chance(0.55):
            rows, columns = np.nonzero(np.isin(np.asarray(mask), _HEAD))
            if len(rows) > 20:
                low, high = np.percentile(columns, (1, 99)), np.percentile(rows, (1, 99))
                centre = np.array([low.mean(), high.mean()])
                extent = max(24.0, np.ptp(low), np.ptp(high)) * self._uniform(1.1, 3.5)
        centre = centre + self._uniform(-1, 1, 2) * self.a.shift * extent
        piece, labels = self._warped(image, mask, extent / self.size, centre)
        around = labels == _OUTSIDE
        if around.any():
            field = self._background() if self._chance(0.5) else np.full_like(piece, _MEAN)
            piece[around], labels[around] = field[around], 0
        return piece, labels

    def _warped(self, image: Image.Image, mask: Image.Image, scale: float, centre) -> tuple[np.ndarray, np.ndarray]:
        """Frame of picture and mask around ``centre`` (x, y), ``scale`` of their pixels to one of the frame, mirrored
        and turned by chance; ``_OUTSIDE`` in the labels where there is no picture."""
        mirror = self._chance(self.a.mirror)
        draw = self.rng.random()
        most = self.a.strong_rotation if draw < self.a.strong_tilt else self.a.rotation
        angle = math.radians(self._uniform(-1, 1) * (180 if draw > 1 - self.a.any_tilt else most))
        stretch = math.exp(self._uniform(-1, 1) * self.a.stretch)
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix = scale * np.array([[cosine, sine], [-sine, cosine]]) * np.array([[stretch], [1 / stretch]])
        if mirror:
            matrix[0] *= -1
        offset = np.asarray(centre) - matrix @ np.full(2, self.size / 2)
        coefficients = np.column_stack([matrix, offset]).flatten()
        square, affine = (self.size, self.size), Image.Transform.AFFINE
        labels = np.array(mask.transform(square, affine, tuple(coefficients), fillcolor=_OUTSIDE))
        # Shrunk in whole steps first, so that fine patterns do not flicker.
        step = max(1, int(scale))
        if step > 1:
            image, coefficients = image.reduce(step), coefficients / step
        pixels = image.transform(
            (self.size,) * 2, Image.Transform.AFFINE, tuple(coefficients), Image.Resampling.BILINEAR, fillcolor=_MEAN
        )
        return np.array(pixels), exchange_sides(labels) if mirror else labels

    def _background_picture(self) -> np.ndarray:
        return self._background()

    def _background(self) -> np.ndarray:
        """A piece of a picture without people, or a plain or noisy field, uint8 [S, S, 3]."""
        side = self.size
        if not self.backgrounds or self._chance(0.2):
            cells = int(self.rng.choice([1, 2, 4, 16, side]))
            field = self._uniform(0, 255, 3) + self.rng.normal(0, 40, (cells, cells, 3))
            field = Image.fromarray(field.clip(0, 255).astype(np.uint8))
            return np.array(field.resize((side, side), Image.Resampling.BILINEAR))
        picture = self.backgrounds[self.rng.integers(len(self.backgrounds))]
        extent = max(16, int(min(picture.size) * self._uniform(0.4, 1.0)))
        left, top = (int(self.rng.integers(length - extent + 1)) for length in picture.size)
        piece = picture.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + extent, top + extent))
        return np.array(piece)[:, :: -1 if self._chance(0.5) else 1].copy()

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _uniform(self, low, high, size=None):
        return self.rng.uniform(low, high, size)


def exchange_sides(mask):
    """``mask`` (uint8 array or tensor, any shape) with the ids of each left/right pair exchanged, as mirroring a
    picture asks for."""
    if isinstance(mask, np.ndarray):
        return _EXCHANGED[mask]
    import torch

    return torch.from_numpy(_EXCHANGED)[mask.long()]


_EXCHANGED = np.arange(256, dtype=np.uint8)
for _a, _b in PAIRS:
    _EXCHANGED[_a], _EXCHANGED[_b] = _b, _a
