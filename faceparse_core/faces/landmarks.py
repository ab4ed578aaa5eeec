"""Landmarks of a face, from the parts that labels show: its axes, the sides of the face, its middle line.

The eyes, the nose and the mouth give a face axes of its own, whatever its tilt: the origin between the eyes, one unit
as long as the way from there to the mouth. What is measured in units was read off the portraits of CelebAMask-HQ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from faceparse_core.faces.face import Face, wrapped
from faceparse_core.labels import GROUPS, NUM_LABELS, region_ids

# Where a part lies along the axis from the eyes (0) to the mouth (1), for axes where something is missing.
_NOSE_LEVEL, _BROW_LEVEL = 0.37, -0.23
# A face is looked at, and its outlines are drawn, on a grid with this many cells along its longer side.
CELLS = 192
# Parts of fewer cells, as a share of the face's, are noise.
_SMALLEST_PART = 0.0005
# How far from the middle of a face's box its parts lie, as a share of its half sides, squared.
_OVAL = 1.25
# Below so many pixels from the eyes to the mouth nothing can be drawn.
_SMALLEST_UNIT = 2

(_SKIN,), (_NOSE,), (_GLASSES,) = (region_ids(name) for name in ("skin", "nose", "eyeglasses"))
_EYES, _BROWS, _MOUTH, _FACE = (GROUPS[name] for name in ("eyes", "brows", "mouth_area", "face"))


@dataclass(frozen=True)
class Axes:
    """The axes of a face: the point between the eyes (``x``, ``y`` in pixels), the length in pixels from there to the
    mouth (``unit``), and how far the face is turned clockwise in the picture (``angle``, degrees in -180..180)."""

    x: float
    y: float
    unit: float
    angle: float

    def to_face(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of points in the picture: u towards the subject's left, v from the eyes down to the mouth."""
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        x, y = (x - self.x) / self.unit, (y - self.y) / self.unit
        return x * cosine + y * sine, y * cosine - x * sine

    def to_picture(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) in the picture of points of the face."""
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        return self.x + (u * cosine - v * sine) * self.unit, self.y + (u * sine + v * cosine) * self.unit


def face_axes(labels: Tensor, face: Face) -> Axes | None:
    """The axes of a face in a label map, uint8 [H, W]; None where too little of it is seen.

    They come from the eyes and the mouth. Where these are hidden, by hair, glasses, a hand or as the head turns away,
    the nose helps, and an eye, glasses or brows that are seen: of both eyes, nose and mouth two must be there.
    """
    seen = seen_of(labels, face)
    return seen.axes if seen else None


@dataclass(frozen=True)
class Seen:
    """The coarse cells of a face in its axes: of each label the places (u, v) of its cells."""

    axes: Axes
    cells: dict[int, tuple[np.ndarray, np.ndarray]]
    fewest: float  # fewer cells than this are noise

    def part(self, *labels: int) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of the cells of these labels."""
        u, v = zip(*(self.cells[label] for label in labels), strict=True)
        return np.concatenate(u), np.concatenate(v)


def seen_of(labels: Tensor, face: Face) -> Seen | None:
    """The face in coarse cells, with its axes; None where there are none."""
    height, width = labels.shape
    spare_x, spare_y = face.width // 8, face.height // 8
    left, top = max(0, face.x - spare_x), max(0, face.y - spare_y)
    right, bottom = min(width, face.x + face.width + spare_x), min(height, face.y + face.height + spare_y)
    step = max(1, max(right - left, bottom - top) // CELLS)
    cells = labels[top:bottom:step, left:right:step].cpu().numpy()
    is_face = np.zeros(256, dtype=bool)
    is_face[list(_FACE)] = True
    down, across = is_face[cells].nonzero()
    # The centre of the pixel that was looked at.
    x, y = left + across * step + 0.5, top + down * step + 0.5
    # Beside the oval of the face in its box are parts of other faces, if any.
    oval = ((x - face.x) / face.width * 2 - 1) ** 2 + ((y - face.y) / face.height * 2 - 1) ** 2 < _OVAL
    keep = oval | (cells[down, across] == _SKIN)
    label, x, y = cells[down, across][keep], x[keep], y[keep]

    count = np.bincount(label, minlength=NUM_LABELS)
    mean_x, mean_y = (np.bincount(label, values, NUM_LABELS) / count.clip(1) for values in (x, y))
    fewest = max(2, _SMALLEST_PART * len(label))

    def centre(*ids: int) -> np.ndarray | None:
        ids = list(ids)
        if count[ids].sum() < fewest:
            return None
        return np.array([np.average(mean_x[ids], weights=count[ids]), np.average(mean_y[ids], weights=count[ids])])

    axes = _axes(centre)
    if axes is None:
        return None
    u, v = axes.to_face(x, y)
    return Seen(axes, {part: (u[label == part], v[label == part]) for part in _FACE}, fewest)


def _axes(centre: Callable[..., np.ndarray | None]) -> Axes | None:
    """The axes from the ``centre`` (x, y) of labels, which is None for those that are not seen."""
    left_eye, right_eye, nose, mouth = centre(_EYES[0]), centre(_EYES[1]), centre(_NOSE), centre(*_MOUTH)
    eyes = None if left_eye is None or right_eye is None else (left_eye, right_eye)
    if eyes and mouth is not None:
        between = (eyes[0] + eyes[1]) / 2
    elif eyes and nose is not None:
        between = (eyes[0] + eyes[1]) / 2
        mouth = between + (nose - between) / _NOSE_LEVEL
    elif nose is not None and mouth is not None:
        # Both lie on the middle line of the face; how far up the eyes are, what is seen there tells better.
        between = nose - (mouth - nose) * (_NOSE_LEVEL / (1 - _NOSE_LEVEL))
        hints = ((centre(*_EYES), 0.0), (centre(_GLASSES), 0.0), (centre(*_BROWS), _BROW_LEVEL))
        place, level = next(((place, level) for place, level in hints if place is not None), (between, 0.0))
        length = np.linalg.norm(mouth - between)
        if length:
            reach = (mouth - place) @ (mouth - between) / length / (1 - level)
            between = mouth - (mouth - between) * (max(reach, 0.0) / length)
    else:
        return None
    unit = float(np.linalg.norm(mouth - between))
    if unit < _SMALLEST_UNIT:
        return None
    angle = math.degrees(math.atan2(between[0] - mouth[0], mouth[1] - between[1]))
    if eyes:
        # The line through the eyes is steady where the head turns, that to the mouth where it nods: their mean.
        line = eyes[0] - eyes[1]
        tilt = wrapped(math.degrees(math.atan2(line[1], line[0])) - angle)
        if abs(tilt) < 30:
            angle += tilt / 2
    return Axes(float(between[0]), float(between[1]), unit, wrapped(angle))


@dataclass(frozen=True)
class Side:
    """The landmarks of one side of a face, u counted outwards from the middle line (it may be negative)."""

    eye: np.ndarray  # [3, 2]: inner, middle, outer
    brow: np.ndarray  # [3, 2]: inner, middle, outer
    wing: float  # of the nose, u
    mouth: float  # corner of the mouth, u
    cheek: float  # edge of the face below the eyes, u
    jaw: float  # edge of the face beside the mouth, u


# Where they are if nothing of them is seen.
_EYE = np.array([(0.30, 0.0), (0.46, 0.0), (0.61, 0.0)])
_BROW = np.array([(0.21, _BROW_LEVEL + 0.03), (0.49, _BROW_LEVEL - 0.03), (0.77, _BROW_LEVEL + 0.02)])


def side_of(seen: Seen, side: int) -> Side:
    eye, brow = (
        next((curve for one in (side, -side) if (curve := _curve(seen, ids, one)) is not None), usual)
        for ids, usual in ((_EYES, _EYE), (_BROWS, _BROW))
    )
    u, v = seen.part(_NOSE)
    wing = _extreme(side * u[v > 0.3], 0.97, 0.25)
    mouth = _extreme(side * seen.part(*_MOUTH)[0], 0.98, 0.34)
    u, v = seen.part(_SKIN)
    cheek = _extreme(side * u[np.abs(v - 0.4) < 0.1], 0.99, 0.94)
    jaw = _extreme(side * u[np.abs(v - 1.0) < 0.1], 0.99, 0.83)
    # Hair may cover the edge of the face: it is no nearer than this.
    cheek, jaw = max(cheek, eye[2, 0] + 0.15), max(jaw, mouth + 0.15)
    return Side(eye, brow, wing, mouth, min(cheek, 1.25), min(jaw, 1.15))


def _curve(seen: Seen, ids: tuple[int, ...], side: int) -> np.ndarray | None:
    """An eye or a brow of a side as three points (u, v), from the middle of the face outwards; None if unseen."""
    u, v = seen.part(*ids)
    there = (side * u > 0) & (np.abs(v) < 0.8) & (np.abs(u) < 1.2)
    u, v = side * u[there], v[there]
    if len(u) < max(2, seen.fewest / 2):
        return None
    inner, outer = (_extreme(u, share, u.mean()) for share in (0.02, 0.98))
    thirds = np.clip(((u - inner) / max(outer - inner, 1e-6) * 3).astype(int), 0, 2)
    count = np.bincount(thirds, minlength=3)
    height = np.bincount(thirds, v, 3) / count.clip(1)
    height = np.where(count > 0, height, v.mean())
    return np.stack([np.array([inner, (inner + outer) / 2, outer]), height], 1)


def _extreme(values: np.ndarray, share: float, usual: float) -> float:
    """The value below which this share of them lies, an edge that single cells do not move; ``usual`` for too few."""
    if len(values) < 4:
        return float(usual)
    place = round(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


@dataclass(frozen=True)
class Middle:
    """The landmarks of the middle line of a face, as it shows: (u, v)."""

    nose: tuple[float, float]  # its base
    lips: tuple[float, float]  # the lower edge of the lower lip
    chin: tuple[float, float]
    hairline: float  # v, or where the skin ends for another reason


def middle_of(seen: Seen) -> Middle:
    u, v = seen.part(_NOSE)
    nose = _extreme(u, 0.5, 0.0), _extreme(v, 0.98, 0.67)
    u, v = seen.part(*_MOUTH)
    lips = _extreme(u, 0.5, 0.0), _extreme(v, 0.98, 1.15)
    u, v = seen.part(_SKIN)
    below = np.abs(u - lips[0]) < 0.3
    chin = float(np.clip(_extreme(v[below], 0.995, 1.64), lips[1] + 0.3, lips[1] + 0.75))
    tip = _extreme(u[below & (np.abs(v - chin + 0.15) < 0.1)], 0.5, lips[0])
    return Middle(nose, lips, (tip, chin), _extreme(v[np.abs(u) < 0.3], 0.01, -1.05))
