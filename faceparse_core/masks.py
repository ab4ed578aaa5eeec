"""Masks: combining them, moving and softening their edges, filling holes, removing specks.

A mask is a float tensor [B, H, W] with values in 0..1; fp16, bf16 and float64 are taken, float32 comes out, on the
device of what went in (the work is done on the CPU). Soft masks stay soft. Beyond the border of the image a mask is
thought to go on: there is no edge.

A mask is *hard* if it holds nothing but 0 and 1. The edge of a soft one is where it passes half-way between its least
and its greatest value, found between the centres of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from faceparse_core import distances

OPERATIONS = ("union", "intersect", "subtract", "difference", "multiply", "average")
DIRECTIONS = ("both", "inward", "outward")

# Holes of soft masks are filled for so many levels of grey; where nothing is filled, values stay as they are.
_LEVELS = 32
# So many pixels are worked on at a time, that is, frames of a video; progress is told in between.
_PIXELS = 1 << 22
# So many stay in the processor's cache.
_CACHED = 1 << 17
# Beyond so many pixels from its outline a soft edge is cut off when it is moved; so many values stand for each half.
_SOFTEST, _PLACES = 256, 16


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
    """
    _check_number("grow", distance)
    return _in_groups(mask, lambda group: _moved(group, distance) if distance else group)


def opened(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] without what a disc of this radius does not fit into: hairs, spikes, bridges."""
    _check_number("the radius", radius, least=0)
    return grown(grown(mask, -radius), radius)


def closed(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] with gaps and bays filled that a disc of this radius does not fit into."""
    _check_number("the radius", radius, least=0)
    return grown(grown(mask, radius), -radius)


def feathered(mask: Tensor, width: float, direction: str = "both") -> Tensor:
    """The mask [B, H, W] with an edge that is ``width`` pixels wide, in the course of a smooth step (3t² - 2t³).

    The ramp lies half inside and half outside (``both``), inside (``inward``: nothing is added) or outside
    (``outward``: nothing is taken away). Where the mask is softer than that already it stays as it is.
    """
    _check_number("feather", width, least=0)
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    return _in_groups(mask, lambda group: _feathered(group, width, direction) if width else group)


def blurred(mask: Tensor, sigma: float) -> Tensor:
    """The mask [B, H, W] blurred by a Gaussian of this standard deviation in pixels, mirrored at the image's border.

    It is the discrete Gaussian of Lindeberg (1990), applied to the cosine transform: exact for any sigma, never
    negative, and the time does not depend on it.
    """
    _check_number("sigma", sigma, least=0)
    return _in_groups(mask, lambda group: _blurred(group, sigma) if sigma else group)


def smoothed(mask: Tensor, radius: float) -> Tensor:
    """The mask [B, H, W] with a smooth outline: jags and wiggles of less than about ``radius`` pixels are straightened.

    The outline is where the blurred mask passes half-way; it comes out with an edge of one pixel.
    """
    _check_number("the radius", radius, least=0)

    def straight(group: np.ndarray) -> np.ndarray:
        low, high = _bounds(group)
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
    """

    def without_holes(group: np.ndarray) -> np.ndarray:
        if _is_hard(group).all():
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
    """
    _check_number("the smallest part", smallest, least=0)
    if largest is not None:
        _check_number("the number of parts", largest, least=1)
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
    """
    mask = as_mask(mask)
    step = max(1, _PIXELS // mask[0].numel())
    parts = []
    for start in range(0, len(mask), step):
        part = mask[start : start + step]
        if fill_holes:
            part = filled(part)
        if remove_specks > 1 or remove_specks < 0 or keep_largest:
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


def _check_number(name: str, value: float, least: float = -math.inf) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
        bound = f" of {least} or more" if math.isfinite(least) else ""
        raise ValueError(f"{name} must be a number{bound}, not {value}")


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


def _bounds(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each mask, [B, 1, 1]."""
    return masks.min(axis=(1, 2), keepdims=True), masks.max(axis=(1, 2), keepdims=True)


def _is_hard(masks: np.ndarray) -> np.ndarray:
    return ((masks == 0) | (masks == 1)).all(axis=(1, 2))


def _moved(masks: np.ndarray, distance: float) -> np.ndarray:
    if distance < 0:
        turned = sum(_bounds(masks))
        return np.minimum(turned - _moved(turned - masks, -distance), masks)
    hard = _is_hard(masks) if distance == round(distance) else np.zeros(len(masks), dtype=bool)
    if hard.all():
        return _within(masks > 0.5, distance).astype(np.float32)
    if not hard.any():
        return _carried(masks, distance)
    result = np.empty_like(masks)
    result[hard] = _within(masks[hard] > 0.5, distance)
    result[~hard] = _carried(masks[~hard], distance)
    return result


def _within(inside: np.ndarray, distance: float) -> np.ndarray:
    """The pixels that are no farther than this from a pixel of their set, bool [B, H, W]."""
    edge = distances.border_pixels(inside)
    found, _ = edge.distances(distance - 1, distance + 1)
    result = inside | (found <= distance - 0.5)
    # What is far off may be told half a pixel too much or too little.
    frames, rows, columns = distances.places(~result & (found <= distance + 0.5))
    exact, _ = edge.nearest(frames, np.column_stack([rows, columns]))
    result[frames, rows, columns] = exact <= distance + 1e-6
    return result


class _Outline:
    """Where masks pass half-way, with the direction straight across the edge at each of its points."""

    def __init__(self, masks: np.ndarray):
        self.masks = masks
        self.low, self.high = _bounds(masks)
        self.level = (self.low + self.high) / 2
        self.edge = distances.crossings(masks, self.level[:, 0, 0])
        here, by_row, by_column = self.edge.points, np.float32([1, 0]), np.float32([0, 1])
        slope = [self.values(self.edge.frames, here + step) - self.values(self.edge.frames, here - step)
                 for step in (by_row, by_column)]  # fmt: skip
        slope = np.column_stack(slope)
        self.inwards = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)

    def values(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The masks' values between the centres of pixels, bilinear."""
        height, width = self.masks.shape[1:]
        row, column = points[:, 0].clip(0, height - 1), points[:, 1].clip(0, width - 1)
        top, left = row.astype(np.int64), column.astype(np.int64)
        bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down, across = row - top, column - left
        upper = self.masks[frames, top, left] * (1 - across) + self.masks[frames, top, right] * across
        lower = self.masks[frames, bottom, left] * (1 - across) + self.masks[frames, bottom, right] * across
        return upper * (1 - down) + lower * down

    def signed(self, low: float, high: float, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Distances, positive inside, and the indices of the points, as ``Edge.distances`` gives them."""
        found, chosen = self.edge.distances(low, high, indices=indices)
        # The points are up to a pixel apart. Beside one of them, the line through it across the slope is meant.
        near = found < distances.EXACT
        if low > 0:
            near &= found > 0
        frames, rows, columns = distances.places(near)
        if len(frames):
            which = chosen[frames, rows, columns]
            away = np.column_stack([rows, columns]) - self.edge.points[which]
            inwards = self.inwards[which]
            across = (away * inwards).sum(1)
            along = np.abs(away[:, 0] * inwards[:, 1] - away[:, 1] * inwards[:, 0])
            found[frames, rows, columns] = np.hypot(across, np.maximum(along - 0.75, 0))
        for rows in bands(self.masks.shape[1], self.masks[:, 0].size, _CACHED):
            np.copysign(found[:, rows], self.masks[:, rows] - self.level, out=found[:, rows])
        return found, chosen

    def softness(self) -> np.ndarray:
        """How far from its outline each mask still changes, in pixels, [B]; 3 at least."""
        step = (self.high - self.low) / 64
        soft = (self.masks > self.low + step) & (self.masks < self.high - step)
        frames, rows, columns = distances.places(soft)
        cells = np.zeros((soft.shape[0], soft.shape[1] // 4 + 1, soft.shape[2] // 4 + 1), dtype=bool)
        cells[frames, rows // 4, columns // 4] = True
        frames, rows, columns = np.nonzero(cells)
        distance, _ = self.edge.nearest(frames, np.column_stack([rows, columns]) * 4 + 1.5)
        farthest = np.zeros(len(soft))
        np.maximum.at(farthest, frames, np.where(np.isfinite(distance), distance, 0))
        return np.minimum(farthest + 3, _SOFTEST)

    def profiles(self, reach: np.ndarray) -> np.ndarray:
        """What lies straight across the outline, from ``reach`` [N] outside to as far inside, [N, places].

        Never less than what lies farther out: behind the ridge of a strand stays the height of the ridge.
        """
        profile = np.empty((len(self.edge), 2 * _PLACES + 1), dtype=np.float32)
        for i, share in enumerate(np.linspace(-1, 1, profile.shape[1], dtype=np.float32)):
            places = self.edge.points + self.inwards * (share * reach)[:, None]
            profile[:, i] = self.values(self.edge.frames, places)
        return np.maximum.accumulate(profile, axis=1)


def _carried(masks: np.ndarray, distance: float) -> np.ndarray:
    """Masks grown by any distance: each pixel takes what lies this far inwards of it, straight across the outline."""
    outline = _Outline(masks)
    if not len(outline.edge):
        return masks.copy()
    softness = outline.softness()
    reach = softness.astype(np.float32)[outline.edge.frames]
    profiles = outline.profiles(reach)
    flat = np.ptp(profiles[:, -1]) < 1e-6  # then it does not matter which point is nearest, deep inside
    known = distance - softness.max() if flat else 0.0  # nearer than this, all of the rise is there
    signed, chosen = outline.signed(known, distance + softness.max(), indices=True)
    result = masks.copy()
    if known > 0:
        all_of_it = signed == 0
        np.maximum(result, profiles[0, -1], out=result, where=all_of_it)
        signed[all_of_it] = np.inf
    places = np.flatnonzero(np.isfinite(signed))
    here, which, given = (values.ravel()[places] for values in (signed, chosen, masks))
    there = here + distance

    def profile(depth: np.ndarray) -> np.ndarray:
        place = (depth / reach[which]).clip(-1, 1) * _PLACES + _PLACES
        first = np.minimum(place.astype(np.int64), 2 * _PLACES - 1)
        before = profiles[which, first]
        return before + (profiles[which, first + 1] - before) * (place - first).astype(np.float32)

    # The rise is added, so that what differs from its profile (beside the ends of an outline, say) does so afterwards;
    # but the outline itself lies where it should.
    frames = outline.edge.frames[which]
    level, high = outline.level.ravel()[frames], outline.high.ravel()[frames]
    carried = np.minimum(given + np.maximum(profile(there) - profile(here), 0), high)
    carried = np.where(there >= 0, np.maximum(carried, level), np.minimum(carried, np.maximum(given, level)))
    deep = there >= reach[which]
    carried[deep] = np.maximum(given, profiles[which, -1])[deep]
    result.ravel()[places] = carried
    return result


def _feathered(masks: np.ndarray, width: float, direction: str) -> np.ndarray:
    outline = _Outline(masks)
    inside, outside = {"both": (width / 2, width / 2), "inward": (width, 0), "outward": (0, width)}[direction]
    signed, _ = outline.signed(0, max(inside, outside))
    result = masks.copy()
    for rows in bands(masks.shape[1], masks[:, 0].size, _CACHED):
        share, given = signed[:, rows], masks[:, rows]
        if np.isinf(share).all():
            continue
        is_inside = share >= 0
        share += np.float32(outside)
        share *= np.float32(1 / width)
        share = share.clip(0, 1, out=share)
        ramp = (3 - 2 * share) * np.square(share, out=share)
        ramp *= outline.high - outline.low
        ramp += outline.low
        inner = np.minimum(given, ramp) if inside else given
        outer = np.maximum(given, ramp) if outside else given
        result[:, rows] = np.where(is_inside, inner, outer)
    return result


def bands(height: int, width: int, pixels: int, multiple: int = 1) -> Iterator[slice]:
    """Rows from the top down, a ``multiple`` at a time, of about so many ``pixels`` together."""
    rows = max(1, pixels // width // multiple) * multiple
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def _blurred(masks: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.fft import dctn, idctn

    threads = torch.get_num_threads()
    spectrum = dctn(masks, axes=(1, 2), workers=threads)
    for axis in (1, 2):
        length = masks.shape[axis]
        damping = np.exp(sigma**2 * (np.cos(np.pi * np.arange(length) / length) - 1)).astype(np.float32)
        spectrum *= damping[:, None] if axis == 1 else damping
    return idctn(spectrum, axes=(1, 2), workers=threads, overwrite_x=True).clip(*_bounds(masks))


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

    low, high = _bounds(masks)
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
        own = np.append(pieces[(edge.frames, *edge.points.astype(np.int64).T)], 0)[which]
        stays = kept[own] | ~np.isfinite(distance)
        result[frames, rows, columns] = np.where(stays, masks[frames, rows, columns], 0)
    return result
