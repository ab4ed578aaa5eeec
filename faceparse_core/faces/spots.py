"""Spots: places in what the network saw where a face is or may be, with their parts, tilt and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceparse_core.faces.face import Face, framing_of
from faceparse_core.faces.windows import connected
from faceparse_core.labels import NUM_LABELS, region_ids
from faceparse_core.rendering import Window

# What the search looks at: the share of each of these in every cell of the network's output.
_MAPS = [list(region_ids(name)) for name in ("face", "left eye", "right eye", "eyeglasses", "nose", "lips + mouth")]
_FACE, _LEFT, _RIGHT, _GLASSES, _NOSE, _MOUTH = range(len(_MAPS))
_TABLE = torch.tensor([[float(label in ids) for label in range(NUM_LABELS)] for ids in _MAPS])

# Where a place is worth it: at least two of three parts this probable somewhere in at least so many cells of face.
_MAYBE, _MAYBE_PART, _FEWEST_CELLS = 0.3, 0.15, 4
# Each part is somewhere this probable: perhaps a face if it were framed better; a face.
_LIKELY_PART, _CERTAIN_PART = 0.2, 0.5


@dataclass(frozen=True)
class Spot:
    """A place where a face is or may be: its box (left, top, right, bottom) in the image, its tilt and score."""

    box: tuple[float, float, float, float]
    angle: float
    score: float
    likely: bool
    certain: bool
    index: int = 0

    @classmethod
    def of(cls, face: Face) -> Spot:
        box = face.x, face.y, face.x + face.width, face.y + face.height
        return cls(box, face.angle, face.score, likely=True, certain=False, index=face.index)

    @property
    def window(self) -> Window:
        return framing_of(self.box, self.angle)

    def face(self, index: int, size: Sequence[int]) -> Face:
        left, top = (max(0, round(v)) for v in self.box[:2])
        right, bottom = (min(most, round(v)) for v, most in zip(self.box[2:], (size[1], size[0]), strict=True))
        width, height = max(1, right - left), max(1, bottom - top)
        return Face(index, left, top, width, height, round(self.angle, 1), round(self.score, 3))


def shares_of(logits: Tensor) -> np.ndarray:
    """Of each cell the probability of each of ``_MAPS``, float32 [6, h, w]."""
    likely = logits.softmax(0)
    return (_TABLE.to(likely.device) @ likely.flatten(1)).view(-1, *logits.shape[1:]).cpu().numpy()


def one_hot(labels: Tensor) -> np.ndarray:
    """``shares_of`` of labels that are certain."""
    return _TABLE.T[labels.long()].permute(2, 0, 1).numpy()


def spots_in(shares: np.ndarray, window: Window) -> list[Spot]:
    """Places in what the network saw of a ``window``: connected cells of face, divided among the noses in them."""
    pieces, count = connected(shares[_FACE] > _MAYBE)
    rows, columns = pieces.nonzero()
    piece = pieces[rows, columns]
    order = np.argsort(piece, kind="stable")
    rows, columns = rows[order], columns[order]
    ends = np.cumsum(np.bincount(piece, minlength=count + 1))
    spots = []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        y, x = rows[start:end], columns[start:end]
        values = shares[:, y, x]
        if end - start < _FEWEST_CELLS or np.partition(_peaks(values), 1)[1] < _MAYBE_PART:
            continue
        noses = _noses(values[_NOSE], y, x)
        owners = ((y[:, None] - noses[:, 0]) ** 2 + (x[:, None] - noses[:, 1]) ** 2).argmin(1)
        for owner in range(len(noses)):
            mine = owners == owner
            if mine.sum() >= _FEWEST_CELLS:
                spots.append(_spot(values[:, mine], y[mine], x[mine], shares.shape[1:], window))
    return spots


def _noses(share: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where the noses are in connected cells ``y, x`` of face, (row, column) [n, 2]; one, anywhere, if none is seen."""
    there = share > _MAYBE
    if not there.any():
        return np.zeros((1, 2))
    share, y, x = share[there], y[there], x[there]
    mask = np.zeros((y.max() - y.min() + 1, x.max() - x.min() + 1), dtype=bool)
    mask[y - y.min(), x - x.min()] = True
    blobs, _ = connected(mask)
    blob = blobs[y - y.min(), x - x.min()] - 1
    areas, weights = np.bincount(blob), np.bincount(blob, share)
    centres = np.stack([np.bincount(blob, share * y), np.bincount(blob, share * x)], axis=1) / weights[:, None]
    kept: list[int] = []
    for nose in np.argsort(-areas, kind="stable"):
        # Two noses are at least a face apart, which is several noses wide: what is nearer is a piece of the larger one.
        if all(math.dist(centres[nose], centres[other]) > 2.2 * math.sqrt(areas[other]) for other in kept):
            kept.append(int(nose))
    return centres[kept]


def _peaks(shares: np.ndarray) -> tuple[float, float, float]:
    """The highest probability of eyes or glasses, of the nose and of the mouth."""
    highest = shares.reshape(len(shares), -1).max(1)
    return highest[[_LEFT, _RIGHT, _GLASSES]].max(), highest[_NOSE], highest[_MOUTH]


def _spot(values: np.ndarray, y: np.ndarray, x: np.ndarray, cells: tuple[int, int], window: Window) -> Spot:
    """One place, from the shares [6, n] of its cells at ``y, x``."""
    eyes, nose, mouth = _peaks(values)
    down, across = window.height / cells[0], window.width / cells[1]
    points = np.stack([(x + 0.5) * across, (y + 0.5) * down])

    def centre(share):
        weights = np.where(share > 0.5 * share.max(), share, 0)
        return points @ weights / weights.sum()

    angle, straight = 0.0, False
    if min(eyes, nose, mouth) >= _LIKELY_PART:
        eye = centre(values[[_LEFT, _RIGHT, _GLASSES]].max(0))
        axis = centre(values[_MOUTH]) - eye
        if values[_LEFT].max() > 0.3 and values[_RIGHT].max() > 0.3:
            # From the person's right eye to the left one, turned by a right angle: it points down, too.
            line = centre(values[_LEFT]) - centre(values[_RIGHT])
            eye = (centre(values[_LEFT]) + centre(values[_RIGHT])) / 2
            axis = centre(values[_MOUTH]) - eye
            axis_and_line = axis + np.array([-line[1], line[0]])
        else:
            axis_and_line = axis
        angle = math.degrees(math.atan2(-axis_and_line[0], axis_and_line[1]))
        along = (centre(values[_NOSE]) - eye) @ axis / max(axis @ axis, 1e-6)
        straight = 0.0 < along < 1.1
    face = values[_FACE] > 0.5
    if not face.any():
        face = values[_FACE] >= values[_FACE].max()
    left, top = x[face].min() * across, y[face].min() * down
    right, bottom = (x[face].max() + 1) * across, (y[face].max() + 1) * down
    parts = min(eyes, nose, mouth)
    return Spot(
        _turned_box((left, top, right, bottom), window),
        (angle + window.angle + 180) % 360 - 180,
        float((eyes * nose * mouth) ** (1 / 3)),
        likely=parts >= _LIKELY_PART,
        certain=parts >= _CERTAIN_PART and straight,
    )


def _turned_box(box: tuple[float, float, float, float], window: Window) -> tuple[float, float, float, float]:
    """The upright box, in the image, of a box in a window; of a turned one that of the ellipse in it."""
    x, y = (box[0] + box[2]) / 2 - window.width / 2, (box[1] + box[3]) / 2 - window.height / 2
    sine, cosine = math.sin(math.radians(window.angle)), math.cos(math.radians(window.angle))
    x, y = window.centre[0] + cosine * x - sine * y, window.centre[1] + sine * x + cosine * y
    a, b = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    wide, high = math.hypot(a * cosine, b * sine), math.hypot(a * sine, b * cosine)
    return x - wide, y - high, x + wide, y + high


def is_framed(spot: Spot, window: Window) -> bool:
    """Whether a window shows this place upright, in its middle and at the size that it should have."""
    wanted = spot.window
    size = wanted.width / window.width
    away = math.dist(wanted.centre, window.centre) / window.width
    return 0.7 < size < 1.5 and away < 0.15 and abs((spot.angle - window.angle + 180) % 360 - 180) < 20


def distinct(spots: Sequence[Spot], others: Sequence[Spot] = ()) -> list[Spot]:
    """The spots, best first, without those that are mostly one that is better or one of the others."""
    kept: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.certain, spot.score), reverse=True):
        if all(shared(spot.box, other.box) < 0.5 for other in (*kept, *others)):
            kept.append(spot)
    return kept


def shared(a: Sequence[float], b: Sequence[float]) -> float:
    """How much of the smaller of two boxes (left, top, right, bottom) lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
