"""Things before a face: surgical masks, hands and arms, cards, cups, microphones, pieces of other pictures.

All are drawn on a portrait and its mask before they are placed; what they hide is background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from faceparse_core.labels import region_ids

_FACE = [*region_ids("skin + nose + eyes + brows + lips + mouth + eyeglasses")]
_SKIN, _NOSE = region_ids("skin")[0], region_ids("nose")[0]
_LIPS = [*region_ids("lips + mouth")]
_MASK_COLOURS = ((168, 205, 222), (150, 190, 215), (225, 230, 232), (245, 245, 245), (40, 42, 46), (205, 165, 175))

Texture = Callable[[], np.ndarray]
"""A picture of anything but people, uint8 [S, S, 3]."""


def cover(
    image: Image.Image, mask: Image.Image, rng: np.random.Generator, texture: Texture
) -> tuple[Image.Image, Image.Image]:
    """A portrait (RGB) and its mask (grey) with something before the face; as they are if it has none to be seen."""
    face = face_of(np.asarray(mask))
    if face is None:
        return image, mask
    kind = rng.choice(["surgical", "hand", "thing"], p=[0.5, 0.2, 0.3])
    if kind == "surgical":
        return surgical_mask(image, mask, rng, texture)
    if kind == "hand":
        return hand(image, mask, rng)
    return thing(image, mask, rng, texture)


@dataclass(frozen=True)
class FacePlace:
    """Where the face lies in a mask, in pixels: its box ``left, top, right, bottom``, and the rows and columns that a
    surgical mask goes by."""

    box: tuple[int, int, int, int]
    nose: tuple[int, int, int, int]
    lips: tuple[int, int, int, int]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]


def face_of(mask: np.ndarray) -> FacePlace | None:
    """The face in a mask, uint8 [H, W]; None if skin, nose or lips are hardly there."""
    boxes = []
    for ids in (_FACE, [_NOSE], _LIPS):
        rows, columns = np.nonzero(np.isin(mask, ids))
        if len(rows) < 30:
            return None
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return FacePlace(*boxes)


def surgical_mask(
    image: Image.Image, mask: Image.Image, rng: np.random.Generator, texture: Texture
) -> tuple[Image.Image, Image.Image]:
    """A surgical or cloth mask over nose, mouth and chin, now and then below the nose, with straps to the ears."""
    labels = np.asarray(mask)
    face = face_of(labels)
    if face is None:
        return image, mask
    x0, y0, x1, y1 = face.nose
    top = y0 + rng.uniform(0.15, 0.6) * (y1 - y0)
    if rng.random() < 0.1:
        top = y1 + 0.02 * face.height  # worn below the nose
    ends = face.box[3] + rng.uniform(-0.02, 0.06) * face.height
    middle = (face.lips[1] + face.lips[3]) / 2
    left, right = _cheeks(labels, (top + middle) / 2, face)
    low_left, low_right = _cheeks(labels, (middle + face.box[3]) / 2, face)
    spread = rng.uniform(0.0, 0.04) * face.width
    nose = (x0 + x1) / 2
    sag = rng.uniform(0.04, 0.12) * face.height
    outline = [
        (left - spread, top + sag), ((left + nose) / 2, top + 0.3 * sag), (nose, top - rng.uniform(0, 0.4) * sag),
        ((right + nose) / 2, top + 0.3 * sag), (right + spread, top + sag), (low_right + spread, (middle + ends) / 2),
        (nose + 0.22 * face.width, ends), (nose - 0.22 * face.width, ends), (low_left - spread, (middle + ends) / 2),
    ]  # fmt: skip
    shape = _polygon(image.size, outline)
    width = max(1, round(0.012 * face.width))
    draw = ImageDraw.Draw(shape)
    for (x, y), away in (((left, top + sag), -1), ((right, top + sag), 1)):
        draw.line((x, y, x + away * 0.16 * face.width, y - rng.uniform(0, 0.2) * face.height), 255, width)

    if rng.random() < 0.25:
        cloth = np.array(Image.fromarray(texture()).resize(image.size), np.float32)
    else:
        colour = np.array(_MASK_COLOURS[rng.integers(len(_MASK_COLOURS))], np.float32)
        cloth = np.full((*labels.shape, 3), colour + rng.normal(0, 8, 3), np.float32)
    # Light falls on it as on the face, without the face's detail; pleats across.
    light = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(0.08 * face.width)), np.float32)
    inside = np.asarray(shape) > 127
    cloth *= (light / max(1.0, light[inside].mean()) if inside.any() else light)[..., None].clip(0.5, 1.4)
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    bend = ((columns - nose) / face.width) ** 2 * 0.25 * face.height
    if rng.random() < 0.6:
        pleats = np.sin((rows - bend - top) / max(1.0, ends - top) * np.pi * rng.uniform(5, 9))
        cloth *= 1 - 0.12 * (pleats > 0.75)[..., None]
    cloth *= (1 - 0.25 * ((columns - nose) / face.width) ** 2)[..., None]
    return _laid_on(image, mask, cloth, shape)


def hand(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A hand at the face, in the colour of its skin: fingers side by side, a palm, an arm that leaves the picture."""
    labels = np.asarray(mask)
    face = face_of(labels)
    if face is None:
        return image, mask
    pixels = np.asarray(image)
    skin = pixels[labels == _SKIN]
    colour = np.median(skin, 0) * rng.uniform(0.85, 1.1) + rng.normal(0, 5, 3)
    # In coordinates of its own: the wrist at (0, 0), the fingers upwards, one unit long.
    size = rng.uniform(0.5, 0.95) * face.height
    turn = rng.uniform(-1, 1) * 1.1
    at = np.array([rng.uniform(*_range(face.box[0], face.box[2])), rng.uniform(face.box[1], face.box[3])])
    cosine, sine = np.cos(turn), np.sin(turn)

    def place(x: float, y: float) -> tuple[float, float]:
        x, y = size * x, size * (y + 0.75)
        return at[0] + cosine * x - sine * y, at[1] + sine * x + cosine * y

    shape, seams = Image.new("L", image.size), Image.new("L", image.size)
    draw, seam = ImageDraw.Draw(shape), ImageDraw.Draw(seams)
    thick = 0.105 * size
    fan = rng.uniform(0.0, 0.35)
    for finger, length in enumerate((0.82, 0.96, 1.0, 0.9)):
        side = (finger - 1.5) * 0.11
        bent = length * rng.uniform(0.75, 1.0)
        tip = place(side * (1 + 2 * fan), -bent)
        for a, b in ((place(side, -0.45), tip),):
            draw.line((*a, *b), 255, round(thick))
            seam.line((*a, *b), 255, round(thick))
            seam.line((*a, *b), 0, max(1, round(0.82 * thick)))
        draw.ellipse((tip[0] - thick / 2, tip[1] - thick / 2, tip[0] + thick / 2, tip[1] + thick / 2), fill=255)
    draw.polygon([place(-0.24, -0.5), place(0.24, -0.5), place(0.2, 0.0), place(-0.2, 0.0)], fill=255)
    thumb = rng.choice([-1, 1])
    draw.line((*place(thumb * 0.18, -0.15), *place(thumb * 0.42, -0.5)), 255, round(1.15 * thick))
    draw.polygon([place(-0.19, -0.05), place(0.19, -0.05), place(0.24, 2.5), place(-0.24, 2.5)], fill=255)
    skin_like = np.full((*labels.shape, 3), colour, np.float32)
    soft = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.05 * size)), np.float32) / 255
    skin_like *= (0.6 + 0.4 * soft)[..., None]  # darker towards its edges
    skin_like *= (1 - 0.35 * np.asarray(seams.filter(ImageFilter.GaussianBlur(1.5)), np.float32) / 255)[..., None]
    skin_like += rng.normal(0, 3, (*labels.shape, 1))
    return _laid_on(image, mask, skin_like, shape)


def thing(
    image: Image.Image, mask: Image.Image, rng: np.random.Generator, texture: Texture
) -> tuple[Image.Image, Image.Image]:
    """A card, cup, microphone or piece of another picture before a part of the face."""
    face = face_of(np.asarray(mask))
    if face is None:
        return image, mask
    x, y = rng.uniform(*_range(face.box[0], face.box[2])), rng.uniform(face.box[1] + 0.2 * face.height, face.box[3])
    size = rng.uniform(0.2, 0.6) * face.height
    shape = Image.new("L", image.size)
    draw = ImageDraw.Draw(shape)
    kind = rng.choice(["card", "cup", "microphone", "blob"])
    turn = rng.uniform(-0.6, 0.6)

    def place(points) -> list[tuple[float, float]]:
        cosine, sine = np.cos(turn), np.sin(turn)
        return [(x + size * (cosine * a - sine * b), y + size * (sine * a + cosine * b)) for a, b in points]

    if kind == "card":
        ratio = rng.uniform(0.5, 0.8)
        draw.polygon(place([(-0.5, -ratio / 2), (0.5, -ratio / 2), (0.5, ratio / 2), (-0.5, ratio / 2)]), fill=255)
    elif kind == "cup":
        draw.polygon(place([(-0.35, -0.5), (0.35, -0.5), (0.26, 0.5), (-0.26, 0.5)]), fill=255)
    elif kind == "microphone":
        radius = 0.22 * size
        draw.ellipse((x - radius, y - 1.2 * radius, x + radius, y + 1.2 * radius), fill=255)
        draw.polygon(place([(-0.1, 0.1), (0.1, 0.1), (0.08, 3.0), (-0.08, 3.0)]), fill=255)
    else:
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(0.25, 0.6, 9)
        draw.polygon(place(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True)), fill=255)
    if kind in ("microphone", "cup") and rng.random() < 0.6:
        material = np.full((*image.size[::-1], 3), rng.uniform(0, 255, 3), np.float32)
        material *= 1 - 0.3 * ((np.arange(image.width) - x) / max(1.0, size))[None, :, None].clip(-1, 1) ** 2
    else:
        material = np.array(Image.fromarray(texture()).resize(image.size), np.float32)
    return _laid_on(image, mask, material, shape)


def _laid_on(image: Image.Image, mask: Image.Image, material: np.ndarray, shape: Image.Image):
    """Picture and mask with a material, float32 [H, W, 3] in 0..255, where a shape is; its edge is soft by a pixel."""
    share = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.8)), np.float32)[..., None] / 255
    pixels = np.asarray(image, np.float32) * (1 - share) + material.clip(0, 255) * share
    labels = np.where(share[..., 0] > 0.5, 0, np.asarray(mask)).astype(np.uint8)
    return Image.fromarray(pixels.round().astype(np.uint8)), Image.fromarray(labels)


def _polygon(size: tuple[int, int], outline: list[tuple[float, float]]) -> Image.Image:
    """A closed outline with round corners (Chaikin's corner cutting), white on black."""
    points = np.array(outline)
    for _ in range(2):
        ahead = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * ahead, 0.25 * points + 0.75 * ahead], 1).reshape(-1, 2)
    shape = Image.new("L", size)
    ImageDraw.Draw(shape).polygon([tuple(point) for point in points], fill=255)
    return shape


def _cheeks(labels: np.ndarray, row: float, face: FacePlace) -> tuple[float, float]:
    """The first and the last column of the face in a row."""
    row = int(np.clip(row, 0, len(labels) - 1))
    columns = np.nonzero(np.isin(labels[row, face.box[0] : face.box[2]], _FACE))[0]
    if len(columns) < 2:
        return face.box[0], face.box[2]
    return face.box[0] + columns[0], face.box[0] + columns[-1]


def _range(low: float, high: float) -> tuple[float, float]:
    return low - 0.1 * (high - low), high + 0.1 * (high - low)
