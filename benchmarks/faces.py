"""Faces in whole scenes: ``python -m benchmarks.faces [DATA] --backgrounds FOLDER``.

Test pictures are made: one to six labelled portraits at random scale, tilt and place over a picture without people,
their true labels kept. Portraits are cut out along their labels (``--paste square``: pasted with their own background).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from faceparse_core.labels import GROUPS
from faceparse_core.training.data import PICTURE_SUFFIXES

_FACE = list(GROUPS["face"])
_CANVASES = ((1280, 960), (1024, 1024), (960, 1280), (1600, 900), (1024, 683))


@dataclass(frozen=True)
class Pasted:
    """One portrait in a scene: its number, the face's height in pixels, its tilt (degrees clockwise) and its box.

    ``height`` is that of the upright face; ``box`` (x, y, width, height) holds the tilted one. ``place`` is the upper
    left corner of what was pasted, ``side`` that of the portrait's square.
    """

    portrait: int
    height: float
    angle: float
    box: tuple[int, int, int, int]
    place: tuple[int, int]
    side: int


@dataclass(frozen=True)
class Scene:
    """A test picture: pixels, uint8 [H, W, 3]; true labels, uint8 [H, W]; whose they are, int8 [H, W], -1: nobody's."""

    pixels: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    faces: tuple[Pasted, ...]


def read_backgrounds(folder: Path) -> list[Image.Image]:
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    return [Image.open(path).convert("RGB") for path in paths]


def scenes(
    portraits: Sequence[tuple[np.ndarray, np.ndarray]],
    backgrounds: Sequence[Image.Image],
    count: int,
    *,
    heights: tuple[float, float] = (64, 400),
    tilt: float | None = None,
    square: bool = False,
    canvas: tuple[int, int] | None = None,
    people: int | None = None,
    seed: int = 0,
) -> Iterator[Scene]:
    """Scenes one after another, the same for the same arguments.

    ``heights``: of the faces, between these, all orders of magnitude alike. ``tilt``: at most so many degrees to either
    side, half of them up to 15 and the others up to 45 if not given. ``people``: one to six if not given.
    """
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        width, height = canvas or _CANVASES[rng.integers(len(_CANVASES))]
        background = backgrounds[rng.integers(len(backgrounds))]
        scene = _Canvas(_covering(background, width, height))
        for _ in range(people or rng.integers(1, 7)):
            most = tilt if tilt is not None else 15 if rng.random() < 0.5 else 45
            index = int(rng.integers(len(portraits)))
            tall = math.exp(rng.uniform(*np.log(heights)))
            scene.paste(index, *portraits[index], min(tall, 0.6 * height), rng.uniform(-most, most), square, rng)
        yield scene.finished()


class _Canvas:
    def __init__(self, picture: Image.Image):
        self.pixels = np.array(picture)
        self.labels = np.zeros(self.pixels.shape[:2], np.uint8)
        self.owner = np.full(self.labels.shape, -1, np.int8)
        self.pasted: list[tuple] = []

    def paste(self, index, image, mask, tall, angle, square, rng) -> None:
        """Put a portrait where it covers no face and its own face is wholly in the picture; nowhere if nowhere is."""
        rows = np.isin(mask, _FACE).any(1).nonzero()[0]
        side = round(mask.shape[0] * tall / (rows[-1] - rows[0] + 1))
        image, mask, alpha = turned(image, mask, side, angle, square)
        high, wide = mask.shape
        face = np.isin(mask, _FACE)
        rows, columns = face.any(1).nonzero()[0], face.any(0).nonzero()[0]
        room = [(-first, size - last - 1) for (first, last), size in zip(
            ((columns[0], columns[-1]), (rows[0], rows[-1])), self.labels.shape[::-1], strict=True)]  # fmt: skip
        if any(low > high for low, high in room):
            return
        for _ in range(30):
            left, top = (int(rng.integers(low, high + 1)) for low, high in room)
            y, x = slice(max(0, top), max(0, top + high)), slice(max(0, left), max(0, left + wide))
            there = self.labels[y, x]
            cut = (
                slice(y.start - top, y.start - top + there.shape[0]),
                slice(x.start - left, x.start - left + there.shape[1]),
            )
            covered = alpha[cut] > 0
            # Nobody's face is covered, and nobody stands so close that two faces touch.
            if not (np.isin(there, _FACE) & covered).any() and not (self.owner[y, x][face[cut]] >= 0).any():
                break
        else:
            return
        soft = alpha[cut][..., None] / 255
        self.pixels[y, x] = np.round(image[cut] * soft + self.pixels[y, x] * (1 - soft))
        solid = alpha[cut] >= 128
        self.labels[y, x][solid] = mask[cut][solid]
        self.owner[y, x][solid] = len(self.pasted)
        self.pasted.append((index, tall, angle, (left, top), side))

    def finished(self) -> Scene:
        faces = []
        for number, (index, tall, angle, place, side) in enumerate(self.pasted):
            face = np.isin(self.labels, _FACE) & (self.owner == number)
            rows, columns = face.any(1).nonzero()[0], face.any(0).nonzero()[0]
            x, y = int(columns[0]), int(rows[0])
            box = x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
            faces.append(Pasted(index, tall, angle, box, place, side))
        return Scene(self.pixels, self.labels, self.owner, tuple(faces))


def turned(image: np.ndarray, mask: np.ndarray, side: int, angle: float, square: bool):
    """A portrait of this side, turned clockwise: pixels, labels, and how much of it is pasted (0..255)."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    labels = Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST)
    whole = Image.new("L", (side, side), 255)
    picture = picture.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    labels = labels.rotate(-angle, Image.Resampling.NEAREST, expand=True)
    whole = whole.rotate(-angle, Image.Resampling.BILINEAR, expand=True)
    if square:
        return np.array(picture), np.array(labels), np.array(whole)
    # A little inside of the person, so that no rim of the old background comes along.
    person = Image.fromarray((np.array(labels) > 0).astype(np.uint8) * 255)
    inner = person.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(1))
    return np.array(picture), np.array(labels), np.minimum(np.array(inner), np.array(whole))


def _covering(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture, brought to this size."""
    scale = max(width / picture.width, height / picture.height)
    size = math.ceil(picture.width * scale), math.ceil(picture.height * scale)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
