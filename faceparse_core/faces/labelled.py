"""Faces in a label map: where there is skin with eyes, a nose and a mouth in it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core.faces.face import Face, arranged, bounding_box
from faceparse_core.faces.spots import distinct, one_hot, spots_in
from faceparse_core.faces.windows import connected
from faceparse_core.labels import GROUPS, NUM_LABELS, region_ids

# Skin alone is no face: a cup of coffee can look like skin. Its parts must be there, each at least this share of it.
_PARTS = [list(region_ids(part)) for part in ("nose", "eyes + eyeglasses", "lips + mouth")]
_SMALLEST_PART = 0.002
# Less than this share of the largest piece is a speck, and no part of the face's box.
_SPECK = 0.02
_FACE_BITS = sum(1 << label for label in GROUPS["face"])


def has_face(labels: Tensor) -> bool:
    """Whether ``find_faces`` finds any, at a fraction of its cost: skin, a nose, an eye or glasses, lips or a mouth."""
    counts = torch.bincount(labels.flatten(), minlength=NUM_LABELS)
    face = counts[list(GROUPS["face"])].sum().item()
    return all(counts[ids].sum().item() >= max(1, _SMALLEST_PART * face) for ids in _PARTS)


def find_faces(labels: Tensor) -> list[Face]:
    """The faces in a label map, uint8 [H, W], the largest first; ``[]`` if there is none.

    What a face has: see ``has_face``.
    """
    if not has_face(labels):
        return []
    # A bit for each label: several times as fast as a table or isin.
    inside = torch.bitwise_right_shift(_FACE_BITS, labels.int()).bitwise_and_(1).bool()
    # Specks, places and tilt from a smaller map: every so many-th pixel.
    step = max(1, round(max(labels.shape) / 256))
    inside = _without_specks(inside, step)
    x, y, width, height = bounding_box(inside.any(1), inside.any(0)) or (0, 0, 0, 0)
    spots = [spot for spot in distinct(spots_in(one_hot(labels[::step, ::step]), step)) if spot.certain]
    if len(spots) < 2:
        return [Face(0, x, y, width, height, round(spots[0].angle, 1) if spots else 0.0)]
    return arranged([spot.face(0, labels.shape) for spot in spots], "size", 0)


def _without_specks(inside: Tensor, step: int) -> Tensor:
    """What is inside, bool [H, W], but for small pieces apart from the others, told in every ``step``-th pixel."""
    pieces, count = connected(inside[::step, ::step].cpu().numpy())
    if count < 2:
        return inside
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = torch.from_numpy((sizes >= _SPECK * sizes.max())[pieces]).to(inside.device)
    kept = F.max_pool2d(kept[None].float(), 3, 1, 1)[0] > 0  # with what lies between the pixels that were looked at
    height, width = inside.shape
    return inside & kept.repeat_interleave(step, 0).repeat_interleave(step, 1)[:height, :width]
