"""Masks: combining them, moving and softening their edges, filling holes, removing specks.

A mask is a float tensor [B, H, W] with values in 0..1; fp16, bf16 and float64 are taken, float32 comes out, on the
device of what went in (the work is done on the CPU). Soft masks stay soft. Beyond the border of the image a mask is
thought to go on: there is no edge.

A mask is *hard* if it holds nothing but 0 and 1. The edge of a soft one is where it passes half-way between its least
and its greatest value, found between the centres of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from faceparse_core.errors import number
from faceparse_core.masks import distances
from faceparse_core.masks.outline import bounds, carried, is_hard, softened, within

OPERATIONS = ("union", "intersect", "subtract", "difference", "multiply", "average")
DIRECTIONS = ("both", "inward", "outward")

# Holes of soft masks are filled for so many levels of grey; where nothing is filled, values stay as they are.
_LEVELS = 32
# So many pixels are worked on at a time, that is, frames of a video; progress is told in between.
_PIXELS = 1 << 22


def as_mask(mask: Tensor, name: str = "the mask") -> Tensor:
    """``mask`` as float32 [B, H, W] in 0..1.

    >>> as_mask(torch.ones(1, 4, 6, 4)).shape  # the alpha of an image
    torch.Size([1, 4, 6])

    Taken are [H, W], [B, H, W], [B, 1, H, W], [B, H, W, 1] and, for its alpha, an image [B, H, W, 4]. Values beyond
    0..1 are clamped. Raises ValueError, with what was given, for any other shape, for a mask without pixels, and NaN.
    """
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a mask, a tensor [B, H, W], not {type(mask).__name__}")
    given = f"{name} has the shape {list(mask.shape)}"
    if mask.is_complex() or mask.is_meta or mask.layout != torch.strided:
        raise ValueError(f"{name} must hold real numbers and lie in memory, dense: not {mask.dtype}, {mask.layout}")
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
    mask = mask.detach().float()
    low, high = (bound.item() for bound in torch.aminmax(mask))  # NaN travels through both
    if math.isnan(low):
        raise ValueError(f"{name} holds values that are not numbers (NaN); something before it went wrong")
    return mask.clamp(0, 1) if low < 0 or high > 1 else mask


# ---------------------------------------------------------------------------------------------- algebra


def combine(masks: Sequence[Tensor], operation: str = "union") -> Tensor:
    """One mask [B, H, W] of several, each [H, W] or [B, H, W]; of one image and of B go together.

    ``union`` is the greatest value, ``intersect`` the least, ``subtract`` what is in the first but in none of the
    others (the least of the first and 1 - other), ``difference`` what is in an odd number of them, so of two in one but
    not the other (|a - b|, from left to right), ``multiply`` the product and ``average`` the mean. All but the last are
    the operations on sets where the masks are hard. The result is on the device of the first. Raises ValueError for
    masks that differ in size.

    >>> a, b = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    >>> combine([a, b], "subtract")
    tensor([[[1., 0., 0.]]])
    """
    if operation not in OPERATIONS:
        raise ValueError(f"unknown operation {operation!r}: choose one of {', '.join(OPERATIONS)}")
    if not masks:
        raise ValueError("there is no mask to combine: give at least one")
    masks = [as_mask(mask, f"mask {index}") for index, mask in enumerate(masks)]
    if len({mask.shape[1:] for mask in masks}) > 1 or len({len(mask) for mask in masks} - {1}) > 1:
        shapes = ", ".join(f"mask {i} is {len(m)} of {m.shape[2]}x{m.shape[1]}" for i, m in enumerate(masks))
        raise ValueError(
            f"these masks do not go together ({shapes}): all must have one width and height, and as many images as the "
            "others, or a single one, which then counts for all"
        )
    first, *others = masks
    result = first.repeat(max(len(mask) for mask in masks) // len(first), 1, 1)
    for other in others:
        other = other.to(result.device)
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


# ---------------------------------------------------------------------------------------------- the edge


def grown(mask: Tensor, distance: float) -> Tensor:
    """The mask [B, H, W] with its edge ``distance`` pixels farther out, or farther in if negative; equally all round.

    A hard mask that is moved by whole pixels stays hard: a pixel is in it if one of the mask's is no farther away than
    this, from centre to centre. Anything else is moved with its softness, to a fraction of a pixel: each pixel takes
    the value that lies this far from it, straight across the edge. The time hardly depends on the distance.

    >>> dot = torch.zeros(5, 5)
    >>> dot[2, 2] = 1
    >>> grown(dot, 1)[0].int()
    tensor([[0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    number("grow", distance)
    return _in_groups(mask, lambda group: _moved(group, distance) if distance else group)


def opened(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] without what a disc of this radius does not fit into: hairs, spikes, bridges.

    >>> hair = torch.zeros(7, 7)
    >>> hair[:, 3] = 1
    >>> opened(hair, 1).any().item()
    False
    """
    number("the radius", radius, 0)
    return grown(grown(mask, -radius), radius)


def closed(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] with gaps and bays filled that a disc of this radius does not fit into.

    >>> cut = torch.ones(7, 7)
    >>> cut[:, 3] = 0
    >>> closed(cut, 1).all().item()
    True
    """
    number("the radius", radius, 0)
    return grown(grown(mask, radius), -radius)


def feathered(mask: Tensor, width: float, direction: str = "both") -> Tensor:
    """The mask [B, H, W] with an edge that is ``width`` pixels wide, in the course of a smooth step (3t² - 2t³).

    The ramp lies half inside and half outside (``both``), inside (``inward``: nothing is added) or outside
    (``outward``: nothing is taken away). Where the mask is softer than that already it stays as it is.

    >>> half = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    >>> feathered(half, 4)
    tensor([[[0.0000, 0.0430, 0.3164, 0.6836, 0.9570, 1.0000]]])
    """
    number("feather", width, 0)
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    return _in_groups(mask, lambda group: softened(group, width, direction) if width else group)


def blurred(mask: Tensor, sigma: float) -> Tensor:
    """The mask [B, H, W] blurred by a Gaussian of this standard deviation in pixels, mirrored at the image's border.

    >>> blurred(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), 1)
    tensor([[[0.0581, 0.2089, 0.4660, 0.2089, 0.0581]]])

    It is the discrete Gaussian of Lindeberg (1990), applied to the cosine transform: exact for any sigma, never
    negative, and the time does not depend on it.
    """
    number("sigma", sigma, 0)
    return _in_groups(mask, lambda group: _blurred(group, sigma) if sigma else group)


def smoothed(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] with a smooth outline: jags and wiggles of less than about ``radius`` pixels are straightened.

    The outline is where the blurred mask passes half-way; it comes out with an edge of one pixel.

    >>> jag = torch.zeros(9, 9)
    >>> jag[:, 5:] = 1
    >>> jag[4, 4] = 1
    >>> smoothed(jag, 3)[0, 4, 4] < 0.3
    tensor(True)
    """
    number("the radius", radius, 0)

    def straight(group: np.ndarray) -> np.ndarray:
        low, high = bounds(group)
        span = np.maximum(high - low, 1e-6)
        sigma = radius / 2
        # A straight hard edge has the slope 1 / (sigma sqrt(2 pi)) after the blur: this makes it 1 again.
        steep = max(1.0, sigma * math.sqrt(2 * math.pi))
        share = ((_blurred(group, sigma) - low) / span - 0.5) * steep + 0.5
        return low + (high - low) * share.clip(0, 1)

    return _in_groups(mask, lambda group: straight(group) if radius else group)


# ---------------------------------------------------------------------------------------------- holes and parts


def filled(mask: Tensor) -> Tensor:
    """The mask [B, H, W] with what it encloses; what touches the border of the image is no hole.

    A hole in a soft mask is filled up to the lowest point of its rim (to 1/32; other values are not touched).

    >>> ring = torch.ones(5, 5)
    >>> ring[2, 2] = 0
    >>> filled(ring).all().item()
    True
    """

    def without_holes(group: np.ndarray) -> np.ndarray:
        if is_hard(group).all():
            return _without_holes(group > 0.5).astype(np.float32)
        steps = np.round(group * _LEVELS).astype(np.uint8)
        result = np.zeros_like(steps)
        for level in np.unique(steps[steps > 0]):
            result[_without_holes(steps >= level)] = level  # levels rise, and a smaller set has a smaller result
        return np.where(result == steps, group, np.maximum(group, result.astype(np.float32) / _LEVELS))

    return _in_groups(mask, without_holes)


def keep_parts(mask: Tensor, *, smallest: int = 0, largest: int | None = None) -> Tensor:
    """The mask [B, H, W] without its parts of fewer than ``smallest`` pixels, and with its ``largest`` n parts only.

    A part is connected by the sides of its pixels, not by corners. Of a soft mask the parts are those of the set above
    half-way, and what is softer goes with the nearest of them.

    >>> keep_parts(torch.tensor([[1.0, 0.0, 1.0, 1.0]]), largest=1)
    tensor([[[0., 0., 1., 1.]]])
    """
    number("the smallest part", smallest, 0, math.inf)
    if largest is not None:
        number("the number of parts", largest, 1, math.inf)
    return _in_groups(mask, lambda group: _with_parts(group, smallest, largest))


# ---------------------------------------------------------------------------------------------- all at once


def edit(
    mask: Tensor,
    *,
    grow: float = 0,
    feather: float = 0,
    direction: str = "both",
    fill_holes: bool = False,
    remove_specks: int = 0,
    keep_largest: int = 0,
    open_radius: float = 0,
    close_radius: float = 0,
    smooth_radius: float = 0,
    blur_sigma: float = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The mask [B, H, W] after these steps, in this order; each is left out at its default.

    Holes filled, parts of fewer than ``remove_specks`` pixels removed, the ``keep_largest`` largest kept (0: all),
    closed, opened, its outline smoothed, grown, feathered, blurred: see the functions of these names.
    ``progress(done, total)`` is called after each group of images; an exception from it stops the work.

    >>> face = torch.zeros(40, 40)
    >>> face[10:30, 10:30] = 1
    >>> face[20, 20] = 0
    >>> edited = edit(face, fill_holes=True, grow=2, feather=4)
    >>> edited[0, 20, 20].item(), round(edited[0, 20, 8].item(), 2)
    (1.0, 0.68)
    """
    mask = as_mask(mask)
    remove_specks = number("remove_specks", remove_specks, 0, math.inf, whole=True)
    keep_largest = number("keep_largest", keep_largest, 0, math.inf, whole=True)
    step = max(1, _PIXELS // mask[0].numel())
    parts = []
    for start in range(0, len(mask), step):
        part = mask[start : start + step]
        if fill_holes:
            part = filled(part)
        if remove_specks > 1 or keep_largest:
            part = keep_parts(part, smallest=remove_specks, largest=keep_largest or None)
        part = closed(part, close_radius)
        part = opened(part, open_radius)
        part = smoothed(part, smooth_radius)
        part = grown(part, grow)
        part = feathered(part, feather, direction)
        parts.append(blurred(part, blur_sigma))
        if progress:
            progress(min(start + step, len(mask)), len(mask))
    return torch.cat(parts)


# ---------------------------------------------------------------------------------------------- the work


def _in_groups(mask: Tensor, operation: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """An operation on float32 arrays [B, H, W], done to as many masks at a time as memory should hold."""
    mask = as_mask(mask)
    values = mask.cpu().contiguous().numpy()
    step = max(1, _PIXELS // values[0].size)
    groups = [operation(values[start : start + step]) for start in range(0, len(values), step)]
    result = torch.from_numpy(np.concatenate(groups) if len(groups) > 1 else np.ascontiguousarray(groups[0]))
    if result.data_ptr() == mask.data_ptr():
        result = result.clone()
    return result.to(mask.device)


def _moved(masks: np.ndarray, distance: float) -> np.ndarray:
    if distance < 0:
        turned = sum(bounds(masks))
        return np.minimum(turned - _moved(turned - masks, -distance), masks)
    hard = is_hard(masks) if distance == round(distance) else np.zeros(len(masks), dtype=bool)
    if hard.all():
        return within(masks > 0.5, distance).astype(np.float32)
    if not hard.any():
        return carried(masks, distance)
    result = np.empty_like(masks)
    result[hard] = within(masks[hard] > 0.5, distance)
    result[~hard] = carried(masks[~hard], distance)
    return result


def _blurred(masks: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.fft import dctn, idctn, next_fast_len

    threads = torch.get_num_threads()
    whole = masks
    for axis in (1, 2):
        # Lengths with large primes take many times as long. The mask goes on mirrored, by more than the blur reaches.
        length = masks.shape[axis]
        more = math.ceil(6 * sigma) + 6
        if next_fast_len(length) > length > more:
            rest = [(0, 0)] * 3
            rest[axis] = 0, next_fast_len(length + more) - length
            whole = np.pad(whole, rest, "symmetric")
    spectrum = dctn(whole, axes=(1, 2), workers=threads)
    for axis in (1, 2):
        length = whole.shape[axis]
        damping = np.exp(sigma**2 * (np.cos(np.pi * np.arange(length) / length) - 1)).astype(np.float32)
        spectrum *= damping[:, None] if axis == 1 else damping
    blurred = idctn(spectrum, axes=(1, 2), workers=threads, overwrite_x=True)
    return blurred[:, : masks.shape[1], : masks.shape[2]].clip(*bounds(masks))


# Connected by the sides of pixels, within one mask of the batch.
_SIDES = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3], dtype=bool)


def _without_holes(inside: np.ndarray) -> np.ndarray:
    """The sets [B, H, W], bool, with what they enclose."""
    from scipy.ndimage import label

    gaps, count = label(~inside, _SIDES)
    is_hole = np.ones(count + 1, dtype=bool)
    for side in (gaps[:, 0], gaps[:, -1], gaps[:, :, 0], gaps[:, :, -1]):
        is_hole[side.ravel()] = False
    is_hole[0] = True  # the set itself
    return is_hole[gaps]


def _with_parts(masks: np.ndarray, smallest: int, largest: int | None) -> np.ndarray:
    from scipy.ndimage import label

    low, high = bounds(masks)
    pieces, count = label((masks >= (low + high) / 2) & (masks > 0), _SIDES)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    kept = sizes >= smallest
    kept[0] = False
    if largest is not None:
        # Pieces are numbered mask by mask: of each mask those that are not among the first by size.
        last = np.maximum.accumulate(pieces.reshape(len(pieces), -1).max(axis=1))
        frame = np.searchsorted(last, np.arange(1, count + 1))
        order = np.lexsort((-sizes[1:], frame))
        rank = np.arange(count) - np.searchsorted(frame[order], frame[order])
        kept[1 + order[rank >= largest]] = False
    if kept[1:].all():
        return masks.copy()
    result = np.where(kept[pieces], masks, 0)
    soft = (pieces == 0) & (masks > 0)
    if soft.any():
        # What is softer goes with the nearest part. A mask without parts is left as it is.
        edge = distances.border_pixels(pieces > 0)
        frames, rows, columns = np.nonzero(soft)
        distance, which = edge.nearest(frames, np.column_stack([rows, columns]))
        row, column = edge.points.astype(np.int64).T
        own = np.append(pieces[edge.frames, row, column], 0)[which]
        stays = kept[own] | ~np.isfinite(distance)
        result[frames, rows, columns] = np.where(stays, masks[frames, rows, columns], 0)
    return result
