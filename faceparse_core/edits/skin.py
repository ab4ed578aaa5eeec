"""Skin made smoother with its pores left, spots and shine taken back, and what is under the eyes lifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from faceparse_core.edits.complexion import Complexion, complexion
from faceparse_core.edits.sitter import Sitter, each_sitter
from faceparse_core.errors import enough_memory, number
from faceparse_core.faces import Face
from faceparse_core.images import Images
from faceparse_core.masks.reduced import box_mean

# From the eyes to the mouth is half the face's height or so: percent of it, in units.
_PERCENT = 0.02
# The smooth base: its window in units, and which contrast of lightness is an edge of it (the fold beside the nose …).
_WINDOW, _EDGE = 0.085, 0.035
# What is larger than a spot, in units; from which redness and darkness on, in OKLab, there is one.
_SPOT, _BLEMISH = 0.13, (0.012, 0.05)
# Shine is what is lighter than the face far and wide by more than this, and so much of it can be taken away.
_WIDE, _GLOSS, _MOST_GLOSS = 0.5, 0.03, 0.85
# Under the eyes so much of what is missing to the cheeks can be given.
_MOST_LIFT = 0.85


@enough_memory("the skin cannot be smoothed")
def smooth_skin(
    images: Images,
    labels: Tensor,
    faces: Sequence[Sequence[Face]],
    *,
    smooth: float = 0.4,
    pores: float = 1.0,
    spots: float = 0.4,
    shine: float = 0.3,
    under_eyes: float = 0.3,
    face: int | str = "all",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with smoother skin on the faces, float32 [B, H, W, 3] in 0..1 on the CPU.

    ``images``: in any form that ``parse`` takes; ``labels``: the label map of each, uint8 [B, H, W]; ``faces``: of each
    its faces, as a ``Parsing`` has them. ``smooth`` 0..1: how much is taken of what is coarser than pores and finer
    than the shape of the face, by an edge-aware base (the guided filter, He, Sun & Tang 2010, over skin alone).
    ``pores``: the size of the detail that stays, in percent of the face's height. ``spots``: how much small places that
    are redder or darker than what is around them become like it; ``shine``: how much gloss is taken back;
    ``under_eyes``: how much shadows there are lifted to the cheeks; each 0..1. ``face``: whose: "all", "largest" or an
    index.

    It changes nothing but bare skin and the nose without nostrils: never eyes, brows, lips, ears, neck, hair or a
    beard. All else stays as it is, to the bit. Sizes follow the face. Raises ValueError for images, labels and faces
    that do not go together and for values out of range.

    >>> picture, labels = torch.rand(1, 60, 60, 3), torch.zeros(1, 60, 60, dtype=torch.uint8)
    >>> labels[:, 10:50, 15:45] = 1
    >>> smoothed = smooth_skin(picture, labels, [[Face(0, 15, 10, 30, 40)]])
    >>> torch.equal(smoothed[labels == 0], picture[labels == 0])
    True
    """
    for name, value in (("smooth", smooth), ("spots", spots), ("shine", shine), ("under_eyes", under_eyes)):
        number(name, value, 0, 1)
    number("pores", pores, 0.1, 5)

    def work(sitter: Sitter) -> None:
        skin = complexion(sitter, pores * _PERCENT) if smooth or spots or shine or under_eyes else None
        if skin:
            shift = torch.zeros_like(skin.colours)
            if smooth or spots:
                shift += _without(skin, _base(skin), smooth, spots)
            if shine:
                shift += _less_shine(skin, skin.colours + shift, shine)
            if under_eyes:
                shift += _lifted(skin, skin.colours + shift, sitter.drawn(("under eyes",), skin.factor), under_eyes)
            skin.lay(shift * skin.within)

    return each_sitter(images, labels, faces, face, work, progress)


def _base(skin: Complexion) -> Tensor:
    """The colours without what is small, edges of light kept: a guided filter over bare skin, [1, 3, h, w]."""
    reach = skin.cells(_WINDOW)
    light = skin.colours[:, :1]
    weight = skin.bare
    sums = box_mean(torch.cat([weight, weight * skin.colours, weight * light * skin.colours], 1), reach)
    share = sums[:, :1] + 1e-4
    mean, product = sums[:, 1:4] / share, sums[:, 4:] / share
    level = mean[:, :1]
    slope = (product - level * mean) / ((product[:, :1] - level * level).clamp(min=0) + _EDGE**2)
    model = torch.cat([slope, mean - slope * level], 1) * weight
    model = box_mean(torch.cat([weight, model], 1), reach)
    model = model[:, 1:] / (model[:, :1] + 1e-4)
    return model[:, :3] * light + model[:, 3:]


def _without(skin: Complexion, base: Tensor, smooth: float, spots: float) -> Tensor:
    """The change that takes away what the base has not, and what of spots it still has."""
    change = (base - skin.colours) * smooth
    if spots:
        around = skin.around(base, _SPOT)
        away = skin.colours - around
        least, most = _BLEMISH
        strange = (away[:, 1:2] * 1.5).clamp(min=0) + (-away[:, :1]).clamp(min=0)
        blemish = ((strange - least) / (most - least)).clamp(0, 1)
        change = torch.lerp(change, -away, blemish * spots)
    return change


def _less_shine(skin: Complexion, colours: Tensor, shine: float) -> Tensor:
    """Gloss darkened, and given the chroma of the skin, which light that is mirrored has not."""
    usual = skin.around(colours, _WIDE)
    above = (colours[:, :1] - usual[:, :1] - _GLOSS).clamp(min=0)
    change = torch.zeros_like(colours)
    change[:, :1] = -above * _MOST_GLOSS
    strength = (above / 0.12).clamp(0, 1)
    change[:, 1:] = (usual[:, 1:] - colours[:, 1:]) * strength * 0.6
    return change * shine


def _lifted(skin: Complexion, colours: Tensor, shape: Tensor, lift: float) -> Tensor:
    """Under the eyes lighter, and of the colour of the cheeks, where it is darker than they are."""
    beside = skin.around(colours, 0.3)
    coarse = skin.around(colours, 0.06)
    missing = (beside - coarse) * (beside[:, :1] > coarse[:, :1])
    return missing * shape * (lift * _MOST_LIFT)
