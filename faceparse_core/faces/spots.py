"""Spots: places in a label map where a face is, with their tilt and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceparse_core.faces.face import Face, clipped, wrapped
from faceparse_core.faces.windows import connected
from faceparse_core.labels import NUM_LABELS, region_ids

# What the search looks at: the share of each of these in every cell of the network's output.
_MAPS = [list(region_ids(name)) for name in ("face", "left eye", "right eye", "eyeglasses", "nose", "lips + mouth")]
_FACE, _LEFT, _RIGHT, _GLASSES, _NOSE, _MOUTH = range(len(_MAPS))
_TABLE = torch.tensor([[float(label in ids) for label in range(NUM_LABELS)] for ids in _MAPS])

# Where a place is worth it: at least two of three parts this probable somewhere in at least so many cells of face.
_MAYBE, _MAYBE_PART, _FEWEST_CELLS = 0.3, 0.15, 4
# Each part is somewhere this probable: it has a tilt; it is a face.
_SEEN_PART, _CERTAIN_PART = 0.2, 0.5


@dataclass(frozen=True)
class Spot:
    """A place where a face is or may be: its box (left, top, right, bottom) in the image, its tilt and score."""

    box: tuple[float, float, float, float]
    angle: float
    score: float
    certain: bool

    def face(self, index: int, size: Sequence[int]) -> Face:
        left, top, right, bottom = clipped(self.box, size)
        width, height = max(1, right - left), max(1, bottom - top)
        return Face(index, left, top, width, height, round(self.angle, 1), round(self.score, 3))


def one_hot(labels: Tensor) -> np.ndarray:
    """Of each pixel of a label map whether it is one of each of ``_MAPS``, float32 [6, h, w]."""
    return _TABLE.T[labels.long()].permute(2, 0, 1).numpy()


def spots_in(shares: np.ndarray, step: int) -> list[Spot]:
    """Places in shares [6, h, w] of cells of ``step`` pixels: connected cells of face, divided among the noses in
    them."""
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
                spots.append(_spot(values[:, mine], y[mine], x[mine], step))
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


def _spot(values: np.ndarray, y: np.ndarray, x: np.ndarray, step: int) -> Spot:
    """One place, from the shares [6, n] of its cells at ``y, x``."""
    eyes, nose, mouth = _peaks(values)
    points = np.stack([(x + 0.5) * step, (y + 0.5) * step])

    def centre(share):
        weights = np.where(share > 0.5 * share.max(), share, 0)
        return points @ weights / weights.sum()

    angle, straight = 0.0, False
    if min(eyes, nose, mouth) >= _SEEN_PART:
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
    box = (x[face].min() * step, y[face].min() * step, (x[face].max() + 1) * step, (y[face].max() + 1) * step)
    certain = min(eyes, nose, mouth) >= _CERTAIN_PART and straight
    return Spot(box, wrapped(angle), float((eyes * nose * mouth) ** (1 / 3)), certain)


def distinct(spots: Sequence[Spot]) -> list[Spot]:
    """The spots, best first, without those that are mostly one that is better."""
    kept: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.certain, spot.score), reverse=True):
        if all(_shared(spot.box, other.box) < 0.5 for other in kept):
            kept.append(spot)
    return kept


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    """How much of the smaller of two boxes (left, top, right, bottom) lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
