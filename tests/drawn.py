"""Faces drawn as label maps, of which is known where everything lies."""

from __future__ import annotations

import math

import torch

from faceparse_core.faces import Face, bounding_box
from faceparse_core.labels import LABELS

SIZE, EYES_TO_MOUTH = 240, 60


def a_face(
    without: tuple[str, ...] = (),
    glasses: bool = False,
    turned: float = 0,
    more: tuple[tuple[str, float, float, float, float], ...] = (),
    scale: float = 1,
) -> torch.Tensor:
    """A label map of ellipses: a face in the middle, its eyes 60 pixels above its mouth, turned clockwise.

    ``more``: further ellipses, laid over the others: name of the label, middle (u, v) and half axes in units from the
    eyes to the mouth. ``scale``: larger or smaller, as the whole map is.
    """
    size = round(SIZE * scale)
    down, across = torch.meshgrid(*[torch.arange(size) + 0.5 - size / 2] * 2, indexing="ij")
    sine, cosine = math.sin(math.radians(turned)), math.cos(math.radians(turned))
    across, down = across * cosine + down * sine, down * cosine - across * sine
    u, v = across / EYES_TO_MOUTH / scale, down / EYES_TO_MOUTH / scale + 0.4
    labels = torch.zeros(size, size, dtype=torch.uint8)
    parts = [  # name, middle (u, v), half axes
        ("hair", 0, -0.2, 1.15, 1.5),
        ("skin", 0, 0.3, 0.95, 1.35),
        ("nose", 0, 0.37, 0.2, 0.3),
        ("l_eye", 0.46, 0, 0.16, 0.06),
        ("r_eye", -0.46, 0, 0.16, 0.06),
        ("l_brow", 0.5, -0.23, 0.28, 0.05),
        ("r_brow", -0.5, -0.23, 0.28, 0.05),
        ("u_lip", 0, 0.95, 0.34, 0.07),
        ("l_lip", 0, 1.05, 0.3, 0.09),
        *([("eye_g", 0, 0.0, 0.75, 0.2)] if glasses else []),
    ]
    for name, x, y, wide, high in (*(part for part in parts if part[0] not in without), *more):
        inside = ((u - x) / wide) ** 2 + ((v - y) / high) ** 2 <= 1
        labels[inside] = next(label.id for label in LABELS if label.name == name)
    return labels


def its_face(labels: torch.Tensor) -> Face:
    """The face of a map in which there is one: where its skin is."""
    skin = labels == 1
    return Face(0, *bounding_box(skin.any(1), skin.any(0)))
