"""Masks that follow the image: refining a soft edge, and the colours of what is cut out.

Both work at a reduced size where the result is smooth and in bands of rows where it is not, so that a 4096x4096 image
takes little more memory than its mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.errors import number
from faceparse_core.images import Images
from faceparse_core.masks.reduced import (
    averaged,
    box_mean,
    box_of,
    box_within,
    enlarged,
    extents,
    greatest,
    linear_model,
    pairs,
    parts_of,
    reduced_rows,
    runs,
    size_of,
    tiles,
)
from faceparse_core.rendering import alone, spread

UNITS = ("percent", "pixels")
METHODS = ("guided", "network", "closed_form")

# How different two colours must be, in 0..1, to count as an edge (the root of the guided filter's epsilon), and how
# many times steeper the result is made, which the filter leaves too soft: found on the training portraits.
_CONTRAST, _HAIR_CONTRAST = 0.03, 0.01
_STEEPER, _HAIR_STEEPER = 4, 2
# From a difference of so much within a window on, there is an edge to refine.
_EDGE = 0.05
# A window of the guided filter is so many pixels of the reduced image to each side.
_WINDOW = 4
# Closed-form matting is solved at so many pixels, and brought to a larger picture by the filter. The mask, where it is
# sure, counts so much beside the colours: found by eye, so that strands stay and rims go.
_SOLVED_PIXELS = 1 << 20
_TRUST = 0.003
# The colours of what is cut out are looked for in a picture of about this size, and from far around in one of that.
_FINE, _COARSE = 512, 64


def refine(
    images: Images,
    mask: Tensor,
    *,
    radius: float = 1.5,
    unit: str = "percent",
    strength: float = 1.0,
    hair: bool = False,
    method: str = "guided",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The mask [B, H, W] with its edge drawn to where the colours of the images change.

    It is for soft masks that say how sure a network is: away from the edge values go towards 0 and 1.

    ``images``: of the mask's size, in any form that ``parse`` takes; a single image, or a single mask, goes with each
    of the others. ``radius``: how far from its edge the mask may change, in ``percent`` of the size of what it shows
    (the root of the area of its box; so one number suits a small picture and a large one) or in ``pixels``.
    ``strength`` 0..1 mixes the result with the mask as it was. ``hair`` looks twice as far, follows fainter edges and
    keeps fine strands half transparent; without it the edge comes out as sharp as that of an object.

    ``method``: ``guided`` is the fast guided filter with a colour guide (He & Sun, arXiv 1505.00996), in a band round
    the edge. ``network`` is for the hair of one head: before the filter, the bundled network for outlines of hair
    corrects the mask, also by more than the radius. ``closed_form`` solves for what shines through in that band (Levin,
    Lischinski & Weiss 2008), with PyMatting, which must be installed: slower, and good where hair stands before another
    colour.

    Returns float32 on the mask's device. Raises ValueError for images and masks that do not go together and for values
    out of range, ImportError where PyMatting is needed and missing.

    >>> picture = torch.zeros(40, 40, 3)
    >>> picture[:, 20:] = 1
    >>> unsure = torch.sigmoid((torch.arange(40) - 19.5) / 3).expand(40, 40)
    >>> unsure[20, 18:22]
    tensor([0.3775, 0.4584, 0.5416, 0.6225])
    >>> refine(picture, unsure, radius=5, unit="pixels")[0, 20, 18:22].round(decimals=2)
    tensor([0., 0., 1., 1.])
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}: choose one of {', '.join(UNITS)}")
    if not number("radius", radius, 0):
        raise ValueError("radius must be more than 0")
    number("strength", strength, 0, 1)
    frames, masks = pairs(images, mask)
    result = pictures.empty(len(frames), *masks[0].shape)
    for i, (image, one) in enumerate(zip(frames, masks, strict=True)):
        sides = extents(one)
        reach = (radius if unit == "pixels" else radius / 100 * size_of(*sides)) * (2 if hair else 1)
        box = box_within(*(side >= 0.5 for side in sides)) if method == "network" else None
        if box:
            _correct_hair(image, one, box, result[i])
        _refine_one(image, result[i] if box else one, max(1.0, reach), hair, method, result[i])
        if strength < 1:
            torch.lerp(one, result[i], strength, out=result[i])
        if progress:
            progress(i + 1, len(frames))
    return result.to(mask.device)


def foreground(images: Images, mask: Tensor, *, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """The colours of what is in the mask, float32 [B, H, W, 3]: with the old background taken out of its soft edge.

    Where the mask is 1 these are the image's; elsewhere they go on as they are in the neighbourhood, so that laid over
    another background by the mask nothing of the old one shines through. ``images`` and ``mask`` as for ``refine``.

    Blur fusion (Forte 2021, arXiv 2006.14970) at two sizes of neighbourhood.

    >>> soft = ((torch.arange(40) - 17) / 5).clamp(0, 1).expand(40, 40)
    >>> picture = soft[..., None] * torch.tensor([1.0, 0.0, 0.0])  # red with a soft edge before black
    >>> picture[20, 18:23, 0]
    tensor([0.2000, 0.4000, 0.6000, 0.8000, 1.0000])
    >>> foreground(picture, soft)[0, 20, 18:23, 0] > 0.95
    tensor([True, True, True, True, True])
    """
    frames, masks = pairs(images, mask)
    result = torch.empty(len(frames), *masks[0].shape, 3)
    for i, (image, one) in enumerate(zip(frames, masks, strict=True)):
        _foreground_of_one(image, one, result[i])
        if progress:
            progress(i + 1, len(frames))
    return result


def cut_out(
    images: Images,
    mask: Tensor,
    *,
    clean_colours: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with the mask as their alpha, float32 [B, H, W, 4] on the CPU, in the colours of ``foreground``.

    Without ``clean_colours`` the images keep their own. ``images`` and ``mask`` as for ``refine``.

    >>> cut_out(torch.ones(4, 6, 3), torch.ones(4, 6)).shape
    torch.Size([1, 4, 6, 4])
    """
    frames, masks = pairs(images, mask)
    result = torch.empty(len(frames), *masks[0].shape, 4)
    for i, (image, one) in enumerate(zip(frames, masks, strict=True)):
        result[i, ..., 3] = one
        if clean_colours:
            _foreground_of_one(image, one, result[i, ..., :3])
        else:
            for rows in parts_of(*one.shape):
                result[i, rows, :, :3] = pictures.as_float(image[rows].cpu())
        if progress:
            progress(i + 1, len(frames))
    return result


# ---------------------------------------------------------------------------------------------- refining


def _refine_one(image: Tensor, mask: Tensor, reach: float, hair: bool, method: str, result: Tensor) -> None:
    """Writes the refined ``mask`` [H, W] of an image [H, W, 3] to ``result``, which may be the mask itself."""
    height, width = result.shape
    solved = method == "closed_form"
    factor = math.ceil(math.sqrt(result.numel() / _SOLVED_PIXELS)) if solved else max(1, round(reach / _WINDOW))
    window = max(1, round(reach / factor))
    values = torch.empty(-(-height // factor), -(-width // factor))

    def decide(rows: slice) -> None:
        small = values[reduced_rows(rows, factor)]
        if hair:
            small[:] = averaged(mask[rows, :, None], factor)[..., 0]
        _decide(mask[rows], result[rows])
        if not hair:
            small[:] = averaged(result[rows, :, None], factor)[..., 0]

    spread(decide, parts_of(height, width, factor))
    values = values[None, None]

    def edge() -> tuple[Tensor, Tensor]:
        # The band: where the mask is not the same all over a window.
        band = greatest(values, window) + greatest(-values, window) > _EDGE
        # What is farther from it than two windows, and what enlarging mixes in, has no part in it.
        return band, greatest(band.float(), 2 * window + 2)[0, 0] > 0

    band, near = alone(edge)
    box = box_of(near)
    if box is None:
        return
    top, left = (side.start * factor for side in box)
    image, decided = (whole[top : box[0].stop * factor, left : box[1].stop * factor] for whole in (image, result))
    values, band = (whole[:, :, box[0], box[1]] for whole in (values, band))
    near = near[box]
    guide = _reduced_colours(image, near, factor)
    contrast, steeper = (_HAIR_CONTRAST, _HAIR_STEEPER) if hair else (_CONTRAST, _STEEPER)
    if solved:
        values, window, steeper = _closed_form(guide, values, band), 1, steeper / 2

    def modelled() -> Tensor:
        slope = box_mean(linear_model(guide, values, window, contrast**2), window)
        slope[:, 3] -= 0.5
        slope *= steeper
        slope[:, 3] += 0.5
        if image.dtype == torch.uint8:
            slope[:, :3] /= 255
        return torch.cat([slope, box_mean(band.float(), 1)], 1)

    model = alone(modelled)

    def follow(tile: tuple[slice, slice]) -> None:
        lines = enlarged(model, factor, *tile)[0]
        # Planes in one piece are many times quicker to compute with.
        red, green, blue = image[tile].cpu().permute(2, 0, 1).contiguous().float()
        found = lines[3].addcmul_(lines[0], red).addcmul_(lines[1], green).addcmul_(lines[2], blue).clamp_(0, 1)
        decided[tile].lerp_(found, lines[4])

    spread(follow, tiles(model[0, 4] > 0, factor, decided.shape))


def _reduced_colours(image: Tensor, near: Tensor, factor: int) -> Tensor:
    """The colours of an image [H, W, 3] averaged over squares of ``factor`` where they are asked for, bool [h, w]; and
    black elsewhere: [1, 3, h, w]."""
    height, width = image.shape[:2]
    colours = torch.zeros(*near.shape, 3)

    def reduce(rows: slice) -> None:
        small = reduced_rows(rows, factor)
        for columns in runs(near[small].any(0)):
            part = image[rows, columns.start * factor : columns.stop * factor].cpu()
            scale = 255 if part.dtype == torch.uint8 else 1
            colours[small, columns] = averaged(part.float(), factor).div_(scale)

    spread(reduce, parts_of(height, width, factor))
    return colours.permute(2, 0, 1)[None]


def _correct_hair(image: Tensor, mask: Tensor, box: tuple[slice, slice], result: Tensor) -> None:
    """Writes a mask [H, W] of hair, which lies in the ``box``, to ``result``, its odds corrected by the network within
    a picture of the head about it."""
    from faceparse_core.masks import hair  # what reads weights is not needed for the rest

    # Below the hair there is a face, which the network wants to see.
    margin = max(side.stop - side.start for side in box) // 2
    head = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
    result.copy_(mask)
    image, given, result = image[head], mask[head], result[head]
    height, width = given.shape
    factor = max(1, max(height, width) // hair.SIZE)
    alpha = torch.empty(-(-height // factor), -(-width // factor))

    def reduce(rows: slice) -> None:
        result[rows] = hair.corrected(given[rows])
        alpha[reduced_rows(rows, factor)] = averaged(given[rows, :, None], factor)[..., 0]

    spread(reduce, parts_of(height, width, factor))
    everywhere = torch.ones_like(alpha, dtype=torch.bool)
    change = hair.correction(torch.cat([_reduced_colours(image, everywhere, factor), alpha[None, None]], 1))

    def correct(tile: tuple[slice, slice]) -> None:
        result[tile] = hair.corrected(given[tile], enlarged(change, factor, *tile)[0, 0])

    spread(correct, tiles(change[0, 0] != 0, factor, given.shape))


def _closed_form(guide: Tensor, values: Tensor, band: Tensor) -> Tensor:
    """The values [1, 1, h, w] with those in the band solved for, as shares of a mixture of colours [1, 3, h, w].

    The nearer a value in the band is to 0 or 1, the more it counts beside the colours: strands that the mask has and
    the rest of the hair does not touch stay.
    """
    try:
        from pymatting import cf_laplacian, cg, ichol
    except ImportError as error:
        raise ImportError(
            "the method 'closed_form' needs PyMatting: pip install pymatting, or choose 'guided'"
        ) from error
    from scipy.sparse import diags_array

    unknown = band.flatten().numpy()
    if not unknown.any():
        return values
    colours = guide[0].permute(1, 2, 0).double().contiguous().numpy()
    given = values.flatten().double().numpy()
    laplacian = cf_laplacian(colours, is_known=~unknown).tocsr()[unknown]
    trust = _TRUST * np.square(2 * given[unknown] - 1)
    system = laplacian[:, unknown] + diags_array(trust + 1e-6)
    wanted = trust * given[unknown] - laplacian[:, ~unknown] @ given[~unknown]
    given[unknown] = cg(system.tocsc(), wanted, M=ichol(system.tocsc())).clip(0, 1)
    return torch.from_numpy(given).float().view_as(values)


def _decide(mask: Tensor, result: Tensor) -> None:
    """Writes probabilities nearer to 0 and 1: a soft edge says how unsure a network is, not what shines through."""
    inside, outside = _power(mask, 4), _power(1 - mask, 4)
    torch.div(inside, outside.add_(inside), out=result)


def _power(values: Tensor, exponent: int) -> Tensor:
    """The second, fourth, eighth … power; torch's own is many times slower."""
    while exponent > 1:
        values, exponent = values * values, exponent // 2
    return values


# ---------------------------------------------------------------------------------------------- foreground


def _foreground_of_one(image: Tensor, mask: Tensor, result: Tensor) -> None:
    height, width = mask.shape
    size = max(height, width)
    factor = max(1, round(size / _FINE))
    coarser = max(1, round(size / factor / _COARSE))
    sums = torch.empty(8, -(-height // factor), -(-width // factor))

    def weigh(rows: slice) -> None:
        colours, alpha = _planes(image, rows), mask[rows]
        # What is for certain fore- or background counts, and mixed colours only where there is nothing else far around.
        front, back = _power(alpha, 8), _power(1 - alpha, 8)
        weighed = torch.cat([front[None], back[None], colours * front, colours * back])
        sums[:, reduced_rows(rows, factor)] = averaged(weighed, factor, (1, 2))

    spread(weigh, parts_of(height, width, factor))

    def mean_colours() -> Tensor:
        wide = box_mean(averaged(sums, coarser, (1, 2))[None], 6)
        wide += 1e-3 * wide.mean((2, 3), keepdim=True)
        near = box_mean(sums[None], 4)
        near += 0.2 * F.interpolate(wide, size=near.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([near[:, 2:5] / (near[:, :1] + 1e-9), near[:, 5:] / (near[:, 1:2] + 1e-9)], 1)

    model = alone(mean_colours)

    def lay(rows: slice) -> None:
        colours, alpha = _planes(image, rows), mask[rows]
        front, back = enlarged(model, factor, rows, slice(0, width))[0].split(3)
        # What the mix of both does not explain belongs to the foreground by its share.
        unexplained = colours - back - alpha * (front - back)
        front = front.addcmul(alpha, unexplained).clamp_(0, 1)
        result[rows] = torch.where(alpha >= 1, colours, front).permute(1, 2, 0)

    spread(lay, parts_of(height, width))


def _planes(image: Tensor, rows: slice) -> Tensor:
    """Rows of an image [H, W, 3] as [3, rows, W] in 0..1, in one piece, which is many times quicker to compute with."""
    return pictures.as_float(image[rows].cpu()).permute(2, 0, 1).contiguous()
