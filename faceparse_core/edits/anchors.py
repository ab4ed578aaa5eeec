"""Anchors of a face: the points by which something is laid on it, told from the parts that labels show.

All of them stand in the frame of the face: the origin between the eyes, u along the line through the eyes towards the
subject's left, v down, and one unit as long as the way from there to the mouth. What is not seen (an ear under hair,
eyes behind sunglasses) is placed where a head that is turned so has it. The proportions were read off the portraits of
CelebAMask-HQ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from faceparse_core.edits.each import among, is_nearest
from faceparse_core.faces import Axes, Face, face_axes
from faceparse_core.labels import GROUPS, region_ids

# Around the face's box so much is looked at, in parts of its size: above, beside, below.
_ABOVE, _BESIDE, _BELOW = 0.9, 0.6, 0.3
# A face is looked at on a grid with about so many cells along the longer side of what is looked at; on a finer one for
# what is measured in few of them.
_CELLS, FINE_CELLS = 400, 640
# Fewer cells than this are noise.
_FEWEST = 6
# How far the nose stands out before the middle line, and how far the middle of the face's skin lies behind it, in
# units: by so much of the sine of the turn they leave it. Read off portraits whose turn is known (FASSEG). What hair
# covers moves the one, how a nose is labelled the other: hence both.
_NOSE_DEPTH, _SKIN_DEPTH = 0.13, 0.72
_NOSE_SHARE = 0.4
# An ear of which no more than this is seen, in square units, tells no lobe.
_EAR = 0.015
# A head is not told to be turned farther than this, of which both eyes are seen.
_FARTHEST = 60.0
# Bare shoulders are skin, and hair stands off: edges are no farther from where such a head usually has them, in units.
_OFF = {"temple": 0.22, "jaw": 0.22, "side": 0.4}

# Of points that come twice: where they are on a head that looks ahead, in units, and how far they lie behind the eyes.
_PAIRED = {
    "eye": (0.46, 0.0, 0.0),
    "temple": (0.97, -0.02, 0.35),
    "ear": (1.02, 0.62, 0.80),
    "mouth corner": (0.33, 1.0, 0.05),
    "jaw": (0.83, 1.0, 0.30),
    "side": (1.15, -0.75, 0.55),
}
# Of points on the middle line: v, and how far they lie behind the eyes.
_SINGLE = {
    "top": (-1.62, 0.6),
    "hairline": (-1.05, 0.1),
    "forehead": (-0.6, 0.0),
    "bridge": (0.22, -0.15),
    "nose": (0.6, -0.2),
    "mouth": (1.0, 0.0),
    "chin": (1.6, 0.05),
}

POINTS = (*(f"{side} {name}" for name in _PAIRED for side in ("right", "left")), *_SINGLE)
"""The names of all anchors; left and right are the subject's. ``ear`` is its lobe, ``side`` the edge of the head with
its hair at the forehead, ``top`` that of the head, ``nose`` the base of the nose; ``forehead``, its middle, and
``bridge``, of the nose, stand by proportion alone."""

(_SKIN,), (_NOSE,), (_GLASSES,), (_HAIR,), (_HAT,) = (
    region_ids(name) for name in ("skin", "nose", "eyeglasses", "hair", "hat")
)
_SIDES = {"right": -1, "left": 1}
_EYES = dict(zip(("left", "right"), GROUPS["eyes"], strict=True))
_EARS = dict(zip(("left", "right"), GROUPS["ears"], strict=True))
_MOUTH = GROUPS["mouth_area"]
_HEAD = GROUPS["head"]
_BARE = tuple(label for label in GROUPS["face"] if label != _GLASSES)


@dataclass(frozen=True)
class Anchors:
    """``points``: (u, v) of each of ``POINTS``; ``seen``: those of them that labels show, the others are guessed.

    ``frame``: how (u, v) lie in the picture, its ``angle`` is the tilt in degrees, clockwise. ``yaw``: how far the head
    is turned, in degrees, positive towards the subject's left; an estimate.
    """

    frame: Axes
    yaw: float
    points: dict[str, tuple[float, float]]
    seen: frozenset[str]

    def in_picture(self, name: str) -> tuple[float, float]:
        """(x, y) in pixels of a point; whole numbers are the corners of pixels."""
        u, v = self.points[name]
        x, y = self.frame.to_picture(np.float64(u), np.float64(v))
        return float(x), float(y)


def find_anchors(labels: Tensor, face: Face, others: Sequence[Face] = ()) -> Anchors | None:
    """The anchors of a face in a label map, uint8 [H, W]; None where too little of it is seen (see ``face_axes``).

    ``others``: the faces beside it; what is nearer to one of them does not count.

    >>> import torch
    >>> find_anchors(torch.zeros(40, 40, dtype=torch.uint8), Face(0, 5, 5, 30, 30)) is None
    True
    """
    axes = face_axes(labels, face)
    if axes is None:
        return None
    parts = Parts(labels, face, others, axes)
    eyes = {side: parts.centre(_EYES[side], far=0.5) for side in _SIDES}
    right, left = eyes["right"], eyes["left"]
    if right is not None and left is not None and left[0] - right[0] > 0.2:
        tilt = math.degrees(math.atan2(left[1] - right[1], left[0] - right[0]))
        if abs(tilt) < 30:
            between = axes.to_picture(*((right + left) / 2))
            axes = replace(axes, x=float(between[0]), y=float(between[1]), angle=axes.angle + tilt)
            parts = parts.turned(axes)
    mouth, nose = parts.centre(*_MOUTH, far=2.0), parts.centre(_NOSE, far=2.0)
    yaw = _yaw(nose, mouth, parts.of(_SKIN))
    found, usual = parts.single(mouth), _usual(yaw)
    for side in _SIDES:
        found |= parts.paired(side, found, usual)
    points = usual | _behind_glasses(parts) | found
    return Anchors(axes, yaw, {name: points[name] for name in POINTS}, frozenset(found))


def _yaw(nose: np.ndarray | None, mouth: np.ndarray | None, skin: tuple[np.ndarray, np.ndarray]) -> float:
    """How far a head is turned, in degrees: by how far nose and skin leave the line from between the eyes to the mouth;
    one of the two counts where the other is not seen."""
    slope = 0.0 if mouth is None else mouth[0] / max(mouth[1], 0.3)
    sines = []
    if nose is not None and mouth is not None:
        sines.append((_NOSE_SHARE, (nose[0] - slope * nose[1]) / _NOSE_DEPTH))
    u, v = skin
    level = (np.abs(v - 0.5) < 0.15) & (np.abs(u) < 1.4)
    if level.sum() >= _FEWEST:
        sines.append((1 - _NOSE_SHARE, -(np.quantile(u[level], (0.015, 0.985)).mean() - slope * 0.5) / _SKIN_DEPTH))
    if not sines:
        return 0.0
    sine = sum(share * value for share, value in sines) / sum(share for share, _ in sines)
    return float(np.clip(math.degrees(math.asin(np.clip(sine, -1, 1))), -_FARTHEST, _FARTHEST))


def _usual(yaw: float) -> dict[str, tuple[float, float]]:
    """Where the points are on a head that is turned so: what lies behind the eyes moves to the other side."""
    cosine, sine = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    points = {}
    for name, (u, v, behind) in _PAIRED.items():
        for side, sign in _SIDES.items():
            points[f"{side} {name}"] = sign * u * cosine - behind * sine, v
    for name, (v, behind) in _SINGLE.items():
        points[name] = -behind * sine, v
    return points


def _behind_glasses(parts: Parts) -> dict[str, tuple[float, float]]:
    """Where eyes are that dark glasses hide."""
    u, v = parts.of(_GLASSES)
    if len(u) < _FEWEST:
        return {}
    near = np.abs(v) < 0.6
    if near.sum() < _FEWEST:
        return {}
    low, high = np.quantile(u[near], (0.02, 0.98))
    middle, half = (low + high) / 2, 0.235 * (high - low)
    level = float(np.median(v[near]))
    return {f"{side} eye": (float(middle + sign * half), level) for side, sign in _SIDES.items()}


class Parts:
    """The cells of a face and what is around it, in its frame."""

    def __init__(self, labels: Tensor, face: Face, others: Sequence[Face], axes: Axes, cells: int = _CELLS):
        height, width = labels.shape
        left, right = face.x - _BESIDE * face.width, face.x + (1 + _BESIDE) * face.width
        top, bottom = face.y - _ABOVE * face.height, face.y + (1 + _BELOW) * face.height
        left, top, right, bottom = max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))
        self._step = max(1, max(right - left, bottom - top) // cells)
        self._cells = labels[top : bottom : self._step, left : right : self._step].cpu().numpy()
        # Label by label, so that those of one lie together.
        flat = self._cells.ravel()
        order = np.argsort(flat, kind="stable")
        order = order[np.searchsorted(flat, 1, sorter=order) :]
        down, across = np.divmod(order.astype(np.int32), np.int32(self._cells.shape[1]))
        # The centre of the pixel that was looked at.
        x = (left + 0.5 + across * self._step).astype(np.float32)
        y = (top + 0.5 + down * self._step).astype(np.float32)
        if others:
            keep = is_nearest(face, others, x, y)
            order, x, y = order[keep], x[keep], y[keep]
        self.labels, self._order, self._x, self._y = flat[order], order, x, y
        self._bounds = np.searchsorted(self.labels, np.arange(257))
        self._face(axes)
        # Where the picture ends above the head, it goes on beyond.
        self.is_cut = bool(top == 0 and among(self._cells[0], _HEAD).sum() > _FEWEST)

    def _face(self, axes: Axes) -> None:
        self.u, self.v = axes.to_face(self._x, self._y)
        self.cell = (self._step / axes.unit) ** 2

    def turned(self, axes: Axes) -> Parts:
        """The same in another frame."""
        parts = copy(self)
        parts._face(axes)
        return parts

    def _where(self, label: int) -> slice:
        return slice(self._bounds[label], self._bounds[label + 1])

    def of(self, *ids: int) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of the cells of these labels."""
        u, v = (np.concatenate([places[self._where(label)] for label in ids]) for places in (self.u, self.v))
        return u, v

    def largest(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of the cells of the largest piece that hangs together of a label."""
        from scipy import ndimage

        where = self._where(label)
        u, v = self.u[where], self.v[where]
        if not len(u):
            return u, v
        down, across = np.divmod(self._order[where], self._cells.shape[1])
        top, left = down.min(), across.min()
        mask = np.zeros((down.max() - top + 1, across.max() - left + 1), dtype=bool)
        mask[down - top, across - left] = True
        pieces, count = ndimage.label(mask)
        if count > 1:
            own = pieces[down - top, across - left]
            largest = own == np.bincount(own).argmax()
            u, v = u[largest], v[largest]
        return u, v

    def is_bare(self, u: float, v: float) -> bool:
        """Whether around a point there is little but the face: no glasses, no hair."""
        near = self.labels[(np.abs(self.u - u) < 0.15) & (np.abs(self.v - v) < 0.1)]
        return len(near) >= _FEWEST and bool(among(near, _BARE).mean() > 0.7)

    def centre(self, *ids: int, far: float) -> np.ndarray | None:
        """The mean (u, v) of these labels, no farther up or down than so many units; None if they are not seen."""
        u, v = self.of(*ids)
        near = (np.abs(v) < far) & (np.abs(u) < 1.5)
        return np.array([u[near].mean(), v[near].mean()]) if near.sum() >= _FEWEST else None

    def single(self, mouth: np.ndarray | None) -> dict[str, tuple[float, float]]:
        """The points of the middle line that are seen."""
        found = {}
        u, v = self.of(*_HEAD)
        crown = v[(np.abs(u) < 0.6) & (v < -0.2) & (v > -2.6)]
        if len(crown) >= _FEWEST and not self.is_cut:
            found["top"] = 0.0, float(np.quantile(crown, 0.004))
        u, v = self.of(_SKIN)
        middle = np.abs(u) < 0.3
        if (middle & (v < -0.3)).sum() >= _FEWEST:
            found["hairline"] = 0.0, float(np.quantile(v[middle], 0.01))
        if mouth is not None:
            found["mouth"] = float(mouth[0]), float(mouth[1])
            below = np.abs(u - mouth[0]) < 0.3
            if (below & (v > mouth[1])).sum() >= _FEWEST:
                chin = float(np.clip(np.quantile(v[below], 0.995), mouth[1] + 0.35, mouth[1] + 0.95))
                tip = u[below & (np.abs(v - chin + 0.15) < 0.1)]
                found["chin"] = float(np.median(tip)) if len(tip) else float(mouth[0]), chin
        u, v = self.of(_NOSE)
        if len(u) >= _FEWEST:
            base = float(np.quantile(v, 0.97))
            found["nose"] = float(np.median(u[v > base - 0.2])), base
        return found

    def paired(
        self, side: str, middle: dict[str, tuple[float, float]], usual: dict[str, tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """The points of one side that are seen; edges are near where they ``usual``ly are."""

        def edge(name: str, values: np.ndarray) -> float:
            place = usual[f"{side} {name}"][0]
            seen = sign * float(np.quantile(sign * values, 0.985))
            return float(np.clip(seen, place - _OFF[name], place + _OFF[name]))

        sign, found = _SIDES[side], {}
        eye = self.centre(_EYES[side], far=0.5)
        if eye is not None:
            found[f"{side} eye"] = float(eye[0]), float(eye[1])
        u, v = self.largest(_EARS[side])
        if len(u) >= max(_FEWEST, _EAR / self.cell):
            low = v >= np.quantile(v, 0.9)
            found[f"{side} ear"] = float(u[low].mean()), float(np.quantile(v, 0.98))
        u, v = self.of(*_MOUTH)
        if "mouth" in middle and len(u) >= _FEWEST:
            corner = sign * u >= np.quantile(sign * u, 0.97)
            found[f"{side} mouth corner"] = float(u[corner].mean()), float(v[corner].mean())
        u, v = self.of(_SKIN)
        for name, level in (("temple", -0.02), ("jaw", middle.get("mouth", (0, 1.0))[1])):
            there = (np.abs(v - level) < 0.08) & (sign * u > 0)
            if there.sum() >= _FEWEST:
                found[f"{side} {name}"] = edge(name, u[there]), level
        u, v = self.of(_SKIN, _HAIR, _HAT)
        there = (np.abs(v + 0.75) < 0.2) & (sign * u > 0) & (sign * u < 1.8)
        if there.sum() >= _FEWEST:
            found[f"{side} side"] = edge("side", u[there]), -0.75
        return found
