"""Masks: combining them, moving and softening edges, filling holes, following the picture, colours of what is cut out.

    from faceparse_core import masks
    masks.feathered(masks.grown(masks.refine("portrait.jpg", hair, hair=True), 4), 12)

A mask is a float tensor [B, H, W] with values in 0..1; see ``tools`` for what is meant by its edge. Others use what is
named here; ``distances`` and ``hair`` are what the work is done with, and ``reduced`` and ``outline`` what edits share.
"""

from faceparse_core.masks import outline, reduced
from faceparse_core.masks.matting import METHODS, UNITS, cut_out, foreground, refine
from faceparse_core.masks.tools import (
    DIRECTIONS,
    OPERATIONS,
    as_mask,
    blurred,
    closed,
    combine,
    edit,
    feathered,
    filled,
    grown,
    keep_parts,
    opened,
    smoothed,
)

__all__ = [
    "DIRECTIONS",
    "METHODS",
    "OPERATIONS",
    "UNITS",
    "as_mask",
    "blurred",
    "closed",
    "combine",
    "cut_out",
    "edit",
    "feathered",
    "filled",
    "foreground",
    "grown",
    "keep_parts",
    "opened",
    "outline",
    "reduced",
    "refine",
    "smoothed",
]
