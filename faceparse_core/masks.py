"""Masks: combining them, growing, shrinking and feathering them, filling holes, removing specks.

A mask is a float tensor [B, H, W] with values in 0..1. What comes out is float32 on the CPU. Soft masks stay soft: what
is defined for sets of pixels (growing, holes, specks) is done to the sets "at least this value" of up to 16 values and
put together again. A hard mask has one such set, and its result is exact; soft ones are within 1/16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

OPERATIONS = ("union", "intersect", "subtract", "difference", "multiply", "average")
DIRECTIONS = ("both", "inward", "outward")

_LEVELS = 16


def as_mask(mask: Tensor, name: str = "the mask") -> Tensor:
    """``mask`` as float32 [B, H, W] in 0..1.

    Taken are [H, W], [B, H, W], [B, 1, H, W], [B, H, W, 1] and, for its alpha, an image [B, H, W, 4]. Values beyond
    0..1 are clamped. Raises ValueError, with what was given, for any other shape, for a mask without pixels, and NaN.
    """
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a mask, a tensor [B, H, W], not {type(mask).__name__}")
    given = f"{name} has the shape {list(mask.shape)}"
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and mask.shape[3] in (1, 4):
        mask = mask[..., -1]
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"{given}: a mask is [H, W], [B, H, W] or [B, 1, H, W]; of images only [B, H, W, 4] (alpha)")
    if 0 in mask.shape:
        raise ValueError(f"{given}: it is empty, there is not a single pixel in it")
    mask = mask.float()
    low, high = (bound.item() for bound in torch.aminmax(mask))  # NaN travels through both
    if math.isnan(low):
        raise ValueError(f"{name} holds values that are not numbers (NaN); something before it went wrong")
    return mask.clamp(0, 1) if low < 0 or high > 1 else mask


def combine(masks: Sequence[Tensor], operation: str = "union") -> Tensor:
    """One mask [B, H, W] of several, each [H, W] or [B, H, W]; of one image and of B go together.

    ``union`` is the greatest value, ``intersect`` the least, ``subtract`` what is in the first but in none of the
    others (the least of the first and 1 - other), ``difference`` what is in one but not the other (|a - b|, from left
    to right), ``multiply`` the product and ``average`` the mean. Raises ValueError for masks that differ in size.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"unknown operation {operation!r}: choose one of {', '.join(OPERATIONS)}")
    if not masks:
        raise ValueError("there is no mask to combine: give at least one")
    masks = [as_mask(mask, f"mask {index}").cpu() for index, mask in enumerate(masks)]
    if len({mask.shape[1:] for mask in masks}) > 1 or len({len(mask) for mask in masks} - {1}) > 1:
        shapes = ", ".join(f"mask {i} is {len(m)} of {m.shape[2]}x{m.shape[1]}" for i, m in enumerate(masks))
        raise ValueError(
            f"these masks do not go together ({shapes}): all must have one width and height, and as many images as the "
            "others, or a single one, which then counts for all"
        )
    first, *others = masks
    result = first.repeat(max(len(mask) for mask in masks) // len(first), 1, 1)
    for other in others:
        if operation == "union":
            torch.maximum(result, other, out=result)
        elif operation == "intersect":
            torch.minimum(result, other, out=result)
        elif operation == "subtract":
            torch.minimum(result, 1 - other, out=result)
        elif operation == "difference":
            result.sub_(other).abs_()
        elif operation == "multiply":
            result.mul_(other)
        else:
            result.add_(other)
    return result.div_(len(masks)).clamp_(0, 1) if operation == "average" else result


def refine(
    mask: Tensor,
    *,
    grow: float = 0,
    feather: float = 0,
    direction: str = "both",
    fill_holes: bool = False,
    remove_specks: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The mask [B, H, W] with holes filled, then specks removed, then grown, then feathered.

    ``fill_holes`` fills what is enclosed by the mask; what touches the border of the image is no hole.
    ``remove_specks`` removes connected pieces (by their sides, not corners) of fewer pixels than this.
    ``grow`` moves the edge outwards by that many pixels, inwards if negative, by exact Euclidean distance; beyond the
    border of the image the mask is thought to go on. ``feather`` makes the edge that many pixels wide: around it
    (``both``), inside (``inward``: nothing is added) or outside (``outward``: nothing is taken away).
    ``progress(done, total)`` is called after each image; an exception from it stops the work.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    if feather < 0 or remove_specks < 0:
        raise ValueError(f"feather and remove_specks must be 0 or more, not {feather} and {remove_specks}")
    mask = as_mask(mask).cpu()
    result = torch.empty_like(mask, memory_format=torch.contiguous_format)
    for i, one in enumerate(mask):
        values = np.ascontiguousarray(one.numpy())
        if fill_holes:
            values = _by_levels(values, _filled)
        if remove_specks > 1:
            values = _by_levels(values, lambda pixels: _without_specks(pixels, remove_specks))
        if grow:
            values = _moved(values, grow)
        if feather:
            values = _feathered(values, feather, direction)
        result[i] = torch.from_numpy(values)
        if progress:
            progress(i + 1, len(mask))
    return result


def _by_levels(mask: np.ndarray, operation: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """An operation on sets of pixels [H, W] bool, done to a mask [H, W]; where it changes nothing, values are kept."""
    steps = np.round(mask * _LEVELS).astype(np.uint8)
    result = np.zeros_like(steps)
    for level in np.unique(steps[steps > 0]):
        result[operation(steps >= level)] = level  # levels rise, and a smaller set has a smaller result
    return np.where(result == steps, mask, result.astype(np.float32) / _LEVELS)


def _moved(mask: np.ndarray, distance: float) -> np.ndarray:
    if distance > 0:
        return _by_levels(mask, lambda pixels: _within(pixels, distance))
    return 1 - _by_levels(1 - mask, lambda pixels: _within(pixels, -distance))


def _within(pixels: np.ndarray, distance: float) -> np.ndarray:
    """The pixels that are no further than this from the set ``pixels``, which has at least one."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = pixels.any(1).nonzero()[0], pixels.any(0).nonzero()[0]
    reach = math.ceil(distance)
    near = (
        slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
        slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
    )
    # The nearest pixel of the set for each pixel; whole numbers from there, which scipy's own distances are not.
    down, across = distance_transform_edt(~pixels[near], return_distances=False, return_indices=True)
    down -= np.arange(down.shape[0], dtype=down.dtype)[:, None]
    across -= np.arange(across.shape[1], dtype=across.dtype)
    result = np.zeros_like(pixels)
    result[near] = down * down + across * across <= distance * distance
    return result


def _filled(pixels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    gaps, _ = label(~pixels)
    open_gaps = np.unique(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]))
    is_open = np.zeros(gaps.max() + 1, dtype=bool)
    is_open[open_gaps] = True
    is_open[0] = False  # the set itself
    return ~is_open[gaps]


def _without_specks(pixels: np.ndarray, smallest: int) -> np.ndarray:
    from scipy.ndimage import label

    pieces, _ = label(pixels)
    stays = np.bincount(pieces.ravel()) >= smallest
    stays[0] = False  # what is not in the set
    return stays[pieces]


def _feathered(mask: np.ndarray, width: float, direction: str) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    # A bell that ends after half the width; the edge is moved by that much first where one side is to stay as it is.
    reach = width / 2
    shift = {"both": 0, "inward": -reach, "outward": reach}[direction]
    soft = gaussian_filter(_moved(mask, shift) if shift else mask, sigma=reach / 2, truncate=2, mode="nearest")
    if direction == "inward":
        return np.minimum(soft, mask)
    return np.maximum(soft, mask) if direction == "outward" else soft
