"""Figures of faces: skin tone, eyes, mouth, tilt and turn, shares of parts.

They describe a picture. None of them is a medical measure, and none tells who somebody is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceparse_core.edits.anchors import FINE_CELLS, Anchors, Parts, find_anchors
from faceparse_core.edits.tone import light_gains, skin_tone, to_cielab
from faceparse_core.faces import Face, draw, wrapped
from faceparse_core.images import Images, as_float
from faceparse_core.labels import GROUPS, LABELS, region_ids
from faceparse_core.masks.reduced import pairs

NOTE = "figures of a picture: no medical measure, and none of anybody's identity"
"""What goes with the figures wherever they are written."""

# Beyond this turn an eye may be hidden by the head.
_TURNED = 40.0
# Fewer cells than this are noise.
_FEWEST = 6
# What is no lid differs from the skin below by so many times what that differs in itself, and at least by so much in
# CIELAB, of which lightness counts by this share.
_UNLIKE, _LEAST_UNLIKE, _SHADING = 2.0, 5.0, 0.3
# An eye is no narrower than this: the standard deviation of its cells along it, in units.
_NARROWEST = 0.075
_SKIN = region_ids("skin")[0]
_INNER, _MOUTH = region_ids("mouth")[0], GROUPS["mouth_area"]
_EYES = dict(zip(("left", "right"), GROUPS["eyes"], strict=True))
_HEAD = GROUPS["head"]


def face_figures(
    images: Images, labels: Tensor, faces: Sequence[Sequence[Face]], *, white_balance: bool = False
) -> list[list[dict[str, Any]]]:
    """Of each image a list with the figures of each of its faces, ready for JSON.

    ``images``: in any form that ``parse`` takes; ``labels``: their label map, uint8 [B, H, W]; ``faces``: of each its
    faces, as a ``Parsing`` has them. ``white_balance``: the light is taken to be such that the surroundings are grey on
    average (grey world), which takes a warm or cold cast out of the skin tone. What cannot be told is None. Of a face:

    - ``index``, ``box``; ``tilt`` and ``yaw`` in degrees, see ``anchors``: yaw is an estimate.
    - ``skin``: ``lab``, ``ita``, ``class``, the same of ``left cheek`` and ``right cheek``, ``balanced``, ``sure``
      (0..1); the median without shadows and highlights. Left and right are the subject's.
    - ``eyes``: ``left``, ``right`` and their mean ``open``: height over width along the eye, 0 closed, about .4 open.
    - ``mouth``: ``open``: height of the inner mouth over the mouth's width; ``smile``: how far the corners lie above
      the middle, over the width: about 0 at rest.
    - ``shares``: of each part its share of the head.

    Raises ValueError for images, labels and faces that do not go together.

    >>> nobody = torch.zeros(1, 8, 8, dtype=torch.uint8)
    >>> face_figures(torch.zeros(8, 8, 3), nobody, [[]])
    [[]]
    """
    maps = (labels[None] if labels.ndim == 2 else labels).cpu()
    frames, _ = pairs(images, torch.zeros(maps.shape))
    if len(frames) != len(maps) or len(faces) != len(maps):
        raise ValueError(
            f"there are {len(frames)} images, labels of {len(maps)} and faces of {len(faces)}: give as many"
        )
    figures: list[list[dict[str, Any]]] = []
    for image, known, found in zip(frames, maps, faces, strict=True):
        if not found:
            figures.append([])
            continue
        pixels = as_float(image)
        gains = light_gains(pixels, known)
        figures.append([_of_face(pixels, known, one, found, gains, white_balance) for one in found])
    return figures


def _of_face(
    image: Tensor, labels: Tensor, face: Face, faces: Sequence[Face], gains: Tensor, balance: bool
) -> dict[str, Any]:
    others = [other for other in faces if other is not face]
    anchors = find_anchors(labels, face, others)
    figures: dict[str, Any] = {"index": face.index, "box": list(face.box), "tilt": round(face.angle, 1), "yaw": None}
    parts = None
    if anchors:
        parts = Parts(labels, face, others, anchors.frame, FINE_CELLS)
        figures |= {"tilt": round(wrapped(anchors.frame.angle), 1), "yaw": round(anchors.yaw, 1)}
    figures["skin"] = _skin(image, labels, face, gains, balance)
    figures["eyes"] = _eyes(parts, anchors, image) if parts and anchors else {"left": None, "right": None, "open": None}
    figures["mouth"] = _mouth(parts) if parts else {"open": None, "smile": None}
    figures["shares"] = _shares(parts) if parts else {}
    return figures


def _skin(image: Tensor, labels: Tensor, face: Face, gains: Tensor, balance: bool) -> dict | None:
    where = slice(max(0, face.y), face.y + face.height), slice(max(0, face.x), face.x + face.width)
    is_skin = labels[where] == _SKIN
    cheeks: dict[str, Tensor] = {}
    drawing = draw(labels, face, ("left cheek", "right cheek"))
    if drawing:
        there = slice(drawing.y, drawing.y + drawing.height), slice(drawing.x, drawing.x + drawing.width)
        whole = slice(0, drawing.height), slice(0, drawing.width)
        known, pixels = labels[there] == _SKIN, image[there]
        for name in drawing.shapes:
            cheeks[name] = pixels[(drawing.shown(name, *whole, soft=False) > 0) & known]
    cast = 0.0 if balance else float((gains.log().abs().max() / 2).clamp(max=1))
    return skin_tone(image[where][is_skin], cheeks, gains if balance else None, cast)


def _eyes(parts: Parts, anchors: Anchors, image: Tensor) -> dict[str, float | None]:
    """How open the eyes are: the ratio of the axes of the ellipse that an eye's cells fill, the width as if the head
    looked ahead, and no less than eyes are wide. Cells that have the colour of the skin below are lid and no eye:
    networks call closed eyes eyes, too. An eye that is nowhere though nothing lies before it is closed."""
    found: dict[str, float | None] = {}
    for side, label in _EYES.items():
        eye = (parts.labels == label) & (np.abs(parts.v) < 0.5) & (np.abs(parts.u) < 1.2)
        at = anchors.points[f"{side} eye"]
        if eye.sum() < _FEWEST:
            hidden = abs(anchors.yaw) > _TURNED or not parts.is_bare(*at)
            found[side] = None if hidden else 0.0
            continue
        below = (parts.labels == _SKIN) & (np.abs(parts.u - at[0]) < 0.3) & (np.abs(parts.v - at[1] - 0.16) < 0.16)
        if below.sum() >= _FEWEST:
            eye[eye] = _unlike(_colours(parts, anchors, image, eye), _colours(parts, anchors, image, below))
        if eye.sum() < _FEWEST:
            found[side] = 0.0
            continue
        u, v = parts.u[eye] / math.cos(math.radians(anchors.yaw)), parts.v[eye]
        spread = np.linalg.eigvalsh(np.cov(np.stack([u, v])))
        tall, wide = math.sqrt(max(spread[0], 0.0)), math.sqrt(max(spread[1], 0.0))
        found[side] = round(tall / max(wide, _NARROWEST), 3)
    seen = [value for value in found.values() if value is not None]
    return {**found, "open": round(sum(seen) / len(seen), 3) if seen else None}


def _colours(parts: Parts, anchors: Anchors, image: Tensor, cells: np.ndarray) -> np.ndarray:
    """The colours of cells in CIELAB, of which light and shade count less: [N, 3]."""
    x, y = anchors.frame.to_picture(parts.u[cells], parts.v[cells])
    rows = torch.from_numpy(y.astype(int).clip(0, image.shape[0] - 1))
    columns = torch.from_numpy(x.astype(int).clip(0, image.shape[1] - 1))
    return to_cielab(image[rows, columns]).numpy() * (_SHADING, 1, 1)


def _unlike(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of these colours differ from the others by more than these among themselves."""
    middle = np.median(others, axis=0)
    usual = np.median(np.linalg.norm(others - middle, axis=1))
    return np.linalg.norm(colours - middle, axis=1) > max(_LEAST_UNLIKE, _UNLIKE * usual)


def _mouth(parts: Parts) -> dict[str, float | None]:
    u, v = parts.of(*_MOUTH)
    if len(u) < _FEWEST:
        return {"open": None, "smile": None}
    left, right = np.quantile(u, (0.01, 0.99))
    wide = max(right - left, 1e-6)
    middle = np.abs(u - (left + right) / 2) < 0.1 * wide
    corners = [v[u < left + 0.06 * wide], v[u > right - 0.06 * wide]]
    smile = None
    if middle.any() and all(len(corner) for corner in corners):
        smile = round(float(v[middle].mean() - (corners[0].mean() + corners[1].mean()) / 2) / wide, 3)
    u, v = parts.of(_INNER)
    inner = v[np.abs(u - (left + right) / 2) < 0.15 * wide]
    tall = float(np.ptp(np.quantile(inner, (0.03, 0.97)))) if len(inner) >= _FEWEST else 0.0
    return {"open": round(tall / wide, 3), "smile": smile}


def _shares(parts: Parts) -> dict[str, float]:
    counts = np.bincount(parts.labels, minlength=len(LABELS))
    head = max(1, int(counts[list(_HEAD)].sum()))
    return {LABELS[label].title: round(int(counts[label]) / head, 4) for label in _HEAD if counts[label]}
