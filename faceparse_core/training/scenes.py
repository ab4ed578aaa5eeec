"""Pictures that the finder learns from, composed of photos with marked faces."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from faceparse_core.models.finder import MARKS, STRIDE
from faceparse_core.training.photos import Photo, Photos

_MIRRORED_MARKS = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class Scenery:
    """How pictures are composed. Shares are of the pictures in a batch.

    ``photos``: a piece of one photo, at any scale and tilt; ``empty``: a picture without people or of heads from
    behind; the others are several photos over a background. ``sources``: how often each source is drawn.
    """

    photos: float = 0.5
    empty: float = 0.12
    any_tilt: float = 0.4
    smallest: float = 11.0  # height of a face in pixels
    covered: float = 0.25
    grey: float = 0.1
    degrade: float = 0.4
    sources: tuple[tuple[str, float], ...] = (
        ("portraits", 0.22), ("frames", 0.26), ("masked", 0.24), ("street", 0.16), ("hair", 0.12),
    )  # fmt: skip


class Scenes(torch.utils.data.Dataset):
    """Item ``step`` is a whole batch, a function of the seed and the step alone, so that a resumed run goes on exactly.

    An item is ``(pixels, targets)``: uint8 [B, 3, S, S] and what ``targets_of`` gives for each, float32.
    """

    def __init__(self, photos: Photos, sizes: Sequence[int], batch_size: int, scenery: Scenery, seed: int):
        self.photos, self.sizes, self.batch_size, self.scenery, self.seed = photos, sizes, batch_size, scenery, seed

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        scenes = [Scene(self.photos, self.scenery, rng, self.sizes[step]) for _ in range(self.batch_size)]
        pixels = np.stack([scene.pixels for scene in scenes])
        targets = np.stack([targets_of(scene.boxes, scene.marks, scene.known, scene.size) for scene in scenes])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(targets)


def targets_of(boxes: np.ndarray, marks: np.ndarray, known: np.ndarray, size: int) -> np.ndarray:
    """What the network is to say of a square picture, float32 [17, size / 8, size / 8].

    How near a face's centre is, 0..1; whether that counts; how much the cell's 14 other values count; these, in the
    network's terms (see ``FinderNetwork``), NaN where unknown.
    """
    cells = size // STRIDE
    out = np.zeros((3 + 4 + 2 * MARKS, cells, cells), np.float32)
    out[1] = 1
    middle = (np.arange(cells, dtype=np.float32) + 0.5) * STRIDE
    for face in np.argsort(-boxes[:, 2] * boxes[:, 3]):
        x, y, width, height = boxes[face]
        left, top, right, bottom = (float(np.clip(v, 0, size)) for v in (
            x - width / 2, y - height / 2, x + width / 2, y + height / 2))  # fmt: skip
        if right - left < 2 or bottom - top < 2:
            continue
        if not known[face]:
            out[1][int(top // STRIDE) : math.ceil(bottom / STRIDE), int(left // STRIDE) : math.ceil(right / STRIDE)] = 0
            continue
        extent = math.sqrt(width * height)
        sigma = max(0.5 * STRIDE, 0.12 * extent)
        row, column = (min(cells - 1, int(v // STRIDE)) for v in ((top + bottom) / 2, (left + right) / 2))
        near = np.exp(-((middle[:, None] - middle[row]) ** 2 + (middle - middle[column]) ** 2) / (2 * sigma**2)).astype(
            np.float32
        )
        np.maximum(out[0], near, out=out[0])
        rows, columns = np.nonzero(near > 0.1)
        values = np.empty((4 + 2 * MARKS, len(rows)), np.float32)
        values[0], values[1] = (x - middle[columns]) / extent, (y - middle[rows]) / extent
        values[2], values[3] = math.log(width / STRIDE), math.log(height / STRIDE)
        values[4::2] = (marks[face, :, :1] - middle[columns]) / extent
        values[5::2] = (marks[face, :, 1:] - middle[rows]) / extent
        out[2, rows, columns] = near[rows, columns] / near[rows, columns].sum()
        out[3:, rows, columns] = values
        out[1, row, column] = 1
    return out


class Scene:
    """One picture: ``pixels``, uint8 [S, S, 3], and its faces as in ``Photo``."""

    def __init__(self, photos: Photos, scenery: Scenery, rng: np.random.Generator, size: int):
        self.photos, self.scenery, self.rng, self.size = photos, scenery, rng, size
        self.boxes = np.zeros((0, 4), np.float32)
        self.marks = np.zeros((0, MARKS, 2), np.float32)
        self.known = np.zeros(0, bool)
        self._bare: list[bool] = []  # of each face: its lower half is seen, and may be covered
        names, shares = zip(*((n, s) for n, s in scenery.sources if n in photos.sources), strict=True)
        self._names, self._shares = names, np.array(shares) / sum(shares)
        self._canvas = self._background()
        kind = rng.random()
        if kind < scenery.empty:
            away = photos.sources.get("turned away", [])
            if away and self._chance(0.5):
                photo = away[rng.integers(len(away))]
                self._place(
                    photo, (photo.picture.width / 2, photo.picture.height / 2), self._between(0.3, 1.5) * size / 400
                )
        elif kind < scenery.empty + scenery.photos:
            self._piece_of(self._photo())
        else:
            for _ in range(rng.choice([1, 2, 3, 4, 6], p=[0.25, 0.25, 0.2, 0.15, 0.15])):
                self._piece_of(self._photo(), largest=0.6, anywhere=True)
        for face in range(len(self.boxes)):
            if self._chance(scenery.covered if self._bare[face] else scenery.covered / 3):
                self._cover(face)
        self.pixels = self._varied(self._canvas)

    def _photo(self) -> Photo:
        source = self.photos.sources[self._names[self.rng.choice(len(self._names), p=self._shares)]]
        return source[self.rng.integers(len(source))]

    def _piece_of(self, photo: Photo, largest: float = 1.2, anywhere: bool = False) -> None:
        """Places a photo so that one of its faces is anywhere in the picture, at any size and tilt."""
        faces = photo.known.nonzero()[0]
        face = photo.boxes[faces[self.rng.integers(len(faces))]]
        tall = math.exp(self._between(math.log(self.scenery.smallest), math.log(largest * self.size)))
        scale = tall / face[3]
        if scale > 2.5 and self._chance(0.8):  # hardly anything to be seen there
            scale = self._between(0.7, 2.5)
        self._place(photo, face[:2], scale, cut_out=anywhere and self._chance(0.6), piece=anywhere)

    def _place(self, photo: Photo, centre, scale: float, cut_out: bool = False, piece: bool = False) -> None:
        """Draws a photo with the point ``centre`` of it somewhere in the picture; what it covers is hidden."""
        rng, size = self.rng, self.size
        turn = self._between(-180, 180) if self._chance(self.scenery.any_tilt) else self._between(-25, 25)
        angle, mirrored, stretch = math.radians(turn), self._chance(0.5), math.exp(self._between(-0.12, 0.12))
        cosine, sine = math.cos(angle), math.sin(angle)
        # From the photo to the picture.
        forth = scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([-stretch if mirrored else stretch, 1])
        there = rng.uniform(0.03, 0.97, 2) * size
        shift = there - forth @ np.asarray(centre, np.float64)
        boxes, marks = _moved(photo.boxes, photo.marks, forth, shift, mirrored)
        back = np.linalg.inv(forth)

        step = max(1, int(1 / scale))
        picture, alpha = photo.picture, None
        if cut_out and photo.person is not None:
            alpha = photo.person
        else:
            alpha = Image.new("L", picture.size, 255)
            if piece and len(boxes) == 1:  # a bit of what lies around the face, with a soft edge
                x, y, width, height = photo.boxes[0]
                alpha = Image.new("L", picture.size, 0)
                wide = self._between(0.7, 1.5) * width
                high = self._between(0.75, 1.4) * height
                draw = ImageDraw.Draw(alpha)
                shape = draw.rectangle if self._chance(0.5) else draw.ellipse
                shape((x - wide, y - high, x + wide, y + high), fill=255)
        if step > 1:
            picture, alpha = picture.reduce(step), alpha.reduce(step)
        matrix = np.column_stack([back / step, -back @ shift / step]).flatten()
        drawn, alpha = (
            one.transform((size, size), Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR)
            for one in (picture, alpha)
        )
        self._canvas.paste(drawn, (0, 0), alpha)
        self._hide(np.asarray(alpha))

        left, top = boxes[:, 0] - boxes[:, 2] / 2, boxes[:, 1] - boxes[:, 3] / 2
        seen_x = np.clip(left + boxes[:, 2], 0, size) - np.clip(left, 0, size)
        seen_y = np.clip(top + boxes[:, 3], 0, size) - np.clip(top, 0, size)
        seen = seen_x * seen_y / (boxes[:, 2] * boxes[:, 3])
        known = photo.known & (seen > 0.45) & (boxes[:, 3] > 0.8 * self.scenery.smallest)
        there = seen > 0.05
        self.boxes = np.concatenate([self.boxes, boxes[there]])
        self.marks = np.concatenate([self.marks, marks[there]])
        self.known = np.concatenate([self.known, known[there]])
        self._bare += [photo.bare] * int(there.sum())

    def _hide(self, alpha: np.ndarray) -> None:
        """Forgets the faces that something new mostly covers, and doubts those that it covers by half."""
        keep = []
        for face, (x, y, width, height) in enumerate(self.boxes):
            rows = slice(max(0, int(y - height / 2)), max(1, int(y + height / 2)))
            columns = slice(max(0, int(x - width / 2)), max(1, int(x + width / 2)))
            covered = alpha[rows, columns]
            share = (covered > 127).mean() if covered.size else 1.0
            if share < 0.8:
                keep.append(face)
            if share > 0.4:
                self.known[face] = False
        self.boxes, self.marks, self.known = self.boxes[keep], self.marks[keep], self.known[keep]
        self._bare = [self._bare[face] for face in keep]

    def _cover(self, face: int) -> None:
        """A surgical mask, dark glasses, a hand or a thing over part of a face."""
        marks, rng = self.marks[face], self.rng
        draw = ImageDraw.Draw(self._canvas)
        kind = rng.random()
        if not np.isnan(marks).any() and kind < 0.65:
            eye, mouth = (marks[0] + marks[1]) / 2, (marks[3] + marks[4]) / 2
            down = mouth - eye
            half = max(np.hypot(*(marks[1] - marks[0])), 0.6 * np.hypot(*down)) / 2
            across = marks[1] - marks[0]
            across = across / max(np.hypot(*across), 1e-3) * half

            def at(x: float, y: float) -> tuple[float, float]:
                return tuple(eye + x * across + y * down)

            if kind < 0.5:
                bright = rng.uniform(0, 60) if self._chance(0.25) else rng.uniform(120, 250)
                colour = np.clip(bright + rng.normal(0, 18, 3), 0, 255)
                top, wide, low = self._between(0.25, 0.75), self._between(1.45, 1.95), self._between(1.35, 1.65)
                line = [at(-wide, top + 0.12), at(-0.6, top), at(0, top - 0.12), at(0.6, top), at(wide, top + 0.12),
                        at(0.85 * wide, 0.6 * low + 0.35), at(0.5 * wide, low - 0.03), at(0, low + 0.05),
                        at(-0.5 * wide, low - 0.03), at(-0.85 * wide, 0.6 * low + 0.35)]  # fmt: skip
                draw.polygon(line, fill=tuple(int(v) for v in colour))
                darker = tuple(int(v * 0.85) for v in colour)
                thin = max(1, round(0.04 * half))
                for y in np.linspace(top + 0.25, low - 0.2, rng.integers(0, 4)):
                    draw.line([at(-wide * 0.9, y), at(0, y + 0.06), at(wide * 0.9, y)], fill=darker, width=thin)
                if self._chance(0.6):
                    for side in (-1, 1):
                        draw.line([at(side * wide, top + 0.15), at(side * 2.1, 0.1)], fill=(230, 230, 230), width=thin)
            else:
                colour = tuple(int(v) for v in rng.uniform(0, 60, 3))
                for side in (-1, 1):
                    middle, radius = eye + side * across, self._between(0.55, 0.85) * half
                    draw.ellipse([*(middle - radius), *(middle + radius)], fill=colour)
                draw.line([at(-1.6, -0.05), at(1.6, -0.05)], fill=colour, width=max(1, round(0.1 * half)))
        else:
            x, y, width, height = self.boxes[face]
            side = math.sqrt(width * height) * self._between(0.3, 0.75)
            direction = self._between(0, 2 * math.pi)
            x, y = x + 0.45 * width * math.cos(direction), y + 0.45 * height * math.sin(direction)
            box = [round(x - side / 2), round(y - side / 2), round(x + side / 2) + 1, round(y + side / 2) + 1]
            thing = self._background().crop((0, 0, box[2] - box[0], box[3] - box[1]))
            if self._chance(0.4):  # about as a hand
                thing = Image.new("RGB", thing.size, tuple(int(v) for v in self._skin(face)))
            shape = Image.new("L", thing.size, 0)
            if self._chance(0.5):
                ImageDraw.Draw(shape).ellipse((0, 0, *thing.size), fill=255)
            else:
                shape = shape.point(lambda _: 255).rotate(self._between(0, 90))
            self._canvas.paste(thing, (box[0], box[1]), shape)

    def _skin(self, face: int) -> np.ndarray:
        x, y = (int(np.clip(v, 0, self.size - 1)) for v in self.boxes[face, :2])
        return np.clip(np.array(self._canvas.getpixel((x, y))) * self._between(0.7, 1.2), 0, 255)

    def _background(self) -> Image.Image:
        size, rng = self.size, self.rng
        if not self.photos.backgrounds or self._chance(0.15):
            cells = int(rng.choice([1, 2, 4, 16, size // 2]))
            noise = rng.uniform(0, 255, 3) + rng.normal(0, 40, (cells, cells, 3))
            return Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)
        picture = self.photos.backgrounds[rng.integers(len(self.photos.backgrounds))]
        side = self._between(0.3, 1.0) * min(picture.size)
        left, top = (self._between(0, length - side) for length in picture.size)
        piece = picture.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        return piece.transpose(Image.Transpose(int(rng.integers(0, 7)))) if self._chance(0.4) else piece

    def _varied(self, picture: Image.Image) -> np.ndarray:
        """Smaller, blurred, noisy, dark, grey, tinted, compressed: as photos are."""
        s, rng, size = self.scenery, self.rng, self.size
        if self._chance(s.degrade):
            kind = rng.random()
            if kind < 0.35:
                low = round(size * self._between(0.35, 0.8))
                picture = picture.resize((low, low), Image.Resampling.BILINEAR)
                picture = picture.resize((size, size), Image.Resampling(int(rng.integers(0, 4))))
            elif kind < 0.65:
                picture = picture.filter(ImageFilter.BoxBlur(self._between(0.3, 1.5)))
            else:
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=int(rng.integers(15, 75)))
                picture = Image.open(file)
        x = np.asarray(picture, np.float32)
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        saturation = 0.0 if self._chance(s.grey) else self._between(0.5, 1.4)
        mean = grey.mean()
        contrast, bright = self._between(0.65, 1.3), self._between(0.7, 1.25)
        if self._chance(0.1):
            bright *= self._between(0.25, 0.7)
        tint = rng.uniform(0.88, 1.12, 3) if not self._chance(0.04) else np.array([1.12, 1.0, 0.8])
        x = grey[..., None] * (1 - saturation) + x * saturation
        x = ((x - mean) * contrast + mean) * (bright * tint).astype(np.float32)
        if self._chance(0.15):
            x = x + rng.standard_normal(x.shape, np.float32) * self._between(3, 18)
        return np.clip(x, 0, 255).astype(np.uint8)

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


def _moved(boxes: np.ndarray, marks: np.ndarray, forth: np.ndarray, shift: np.ndarray, mirrored: bool):
    """Boxes and marks after ``forth @ point + shift``; a turned box is that of the turned ellipse in it."""
    centres = boxes[:, :2] @ forth.T + shift
    halves = boxes[:, 2:] / 2
    sides = 2 * np.sqrt((halves**2) @ (forth.T**2))
    marks = marks @ forth.T + shift
    if mirrored:
        marks = marks[:, _MIRRORED_MARKS]
    return np.concatenate([centres, sides], 1).astype(np.float32), marks.astype(np.float32)
