"""Pictures by way of smaller ones: pairing them with masks, averaging, enlarging, filtering by windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.images import Images
from faceparse_core.masks.outline import bands
from faceparse_core.masks.tools import as_mask
from faceparse_core.rendering import led, size_of_part, spread

# So many pixels at a time.
_LEAST_PIXELS, _MOST_PIXELS = 1 << 16, 1 << 19
# Tiles along an edge are about so high: lower ones are many, of higher ones the edge is a small part.
_TILE_ROWS = 128
# What lies so few pixels apart is one tile: each takes its time, however small it is.
GAP = 48


def pairs(images: Images, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Images [H, W, 3] and masks [H, W], as many of one as of the other, all of one size, on the CPU."""
    masks, frames = list(led(lambda: as_mask(mask)).cpu()), pictures.load(images)
    if any(frame.shape[:2] != masks[0].shape for frame in frames) or len({len(masks), len(frames)} - {1}) > 1:
        height, width = frames[0].shape[:2]
        raise ValueError(
            f"{len(frames)} image{'s' * (len(frames) > 1)} of {width}x{height} and {len(masks)} mask"
            f"{'s' * (len(masks) > 1)} of {masks[0].shape[1]}x{masks[0].shape[0]} do not go together: "
            "they must be of one size, and as many of the one as of the other, or a single one"
        )
    count = max(len(masks), len(frames))
    return frames * (count // len(frames)), masks * (count // len(masks))


def extents(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest value in each row and in each column of a mask [H, W]."""
    height, width = mask.shape
    parts = list(parts_of(height, width))
    rows, columns = mask.new_empty(height), mask.new_empty(len(parts), width)

    def look(index: int) -> None:
        part = mask[parts[index]]
        torch.amax(part, 1, out=rows[parts[index]])
        torch.amax(part, 0, out=columns[index])

    spread(look, range(len(parts)))
    return rows, columns.amax(0)


def size_of(rows: Tensor, columns: Tensor) -> float:
    """The root of the area of the box, in pixels, of the mask with these ``extents``; of the whole image's if it is
    empty."""
    level = max(rows.max().item() / 2, 1e-6)
    box = box_within(rows >= level, columns >= level)
    return math.sqrt(math.prod(side.stop - side.start for side in box) if box else len(rows) * len(columns))


def box_of(inside: Tensor) -> tuple[slice, slice] | None:
    """The rows and columns of the box about a set of pixels, bool [H, W]; None if there are none."""
    return box_within(any_along(inside, 1), any_along(inside, 0))


def box_within(rows: Tensor, columns: Tensor) -> tuple[slice, slice] | None:
    """The same of a set that has pixels in these rows, bool [H], and columns, bool [W]."""
    down, across = rows.nonzero(), columns.nonzero()
    if not len(down):
        return None
    return slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1)


def averaged(values: Tensor, factor: int, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """Float values [H, W, C] averaged over squares of ``factor``, at the end over what is there of them.

    ``axes``: those of rows and columns, where they are others."""
    if factor == 1:
        return values
    for axis in axes:
        shape = list(values.shape)
        whole, rest = divmod(shape[axis], factor)
        shape[axis] = whole + bool(rest)
        result = values.new_empty(shape)
        if whole:
            # Layer on layer: torch's mean over one axis of several is many times slower.
            layers = values.narrow(axis, 0, whole * factor).unflatten(axis, (whole, factor)).unbind(axis + 1)
            sums = torch.add(layers[0], layers[1], out=result.narrow(axis, 0, whole))
            for layer in layers[2:]:
                sums += layer
            sums *= 1 / factor
        if rest:
            end = values.narrow(axis, whole * factor, rest)
            result.narrow(axis, whole, 1).copy_(end.mean(axis, keepdim=True))
        values = result
    return values


def averaged_by_all(values: Tensor, factor: int) -> Tensor:
    """As ``averaged``, by all threads: for what is as large as a picture."""
    height, width, count = values.shape
    result = values.new_empty(-(-height // factor), -(-width // factor), count)

    def average(rows: slice) -> None:
        result[reduced_rows(rows, factor)] = averaged(values[rows], factor)

    spread(average, parts_of(height, width, factor))
    return result


def enlarged(small: Tensor, factor: int, rows: slice, columns: slice) -> Tensor:
    """A part of an image from one [1, C, h, w] averaged over squares of ``factor``: bilinear, the centres stay."""
    if factor == 1:
        return small[:, :, rows, columns]
    # Across first, in the few rows that are needed.
    few = slice(max(0, rows.start // factor - 1), -(-rows.stop // factor) + 1)
    wide = _stretched(small[:, :, few], factor, columns, 3)
    return _stretched(wide, factor, slice(rows.start - few.start * factor, rows.stop - few.start * factor), 2)


def _stretched(cells: Tensor, factor: int, pixels: slice, axis: int) -> Tensor:
    """Some of the pixels along an axis of [1, C, h, w], ``factor`` to a cell, between the middles of which they are
    mixed; beyond the last ones these go on."""
    first, last = pixels.start // factor, -(-pixels.stop // factor)
    count, end = last - first, cells.shape[axis] - 1
    before = cells.narrow(axis, max(0, first - 1), 1)
    after = cells.narrow(axis, min(last, end), 1)
    around = torch.cat([before, cells.narrow(axis, first, count), after], axis)
    left, middle, right = (around.narrow(axis, start, count) for start in range(3))
    shape = list(cells.shape)
    shape[axis : axis + 1] = [count, factor]
    result = cells.new_empty(shape)
    # All first pixels of the cells, all second ones …: nothing is gathered, which is slow.
    for k in range(factor):
        way = (k + 0.5) / factor - 0.5
        torch.lerp(middle, left if way < 0 else right, abs(way), out=result.select(axis + 1, k))
    return result.flatten(axis, axis + 1).narrow(axis, pixels.start - first * factor, pixels.stop - pixels.start)


def reduced_rows(rows: slice, factor: int) -> slice:
    """The rows of a picture reduced by ``factor`` in which these are."""
    return slice(rows.start // factor, -(-rows.stop // factor))


def parts_of(height: int, width: int, multiple: int = 1) -> Iterator[slice]:
    """The rows of a picture from the top down, a ``multiple`` at a time, in parts for threads to work at."""
    return bands(height, width, _pixels_of_part(height * width), multiple)


def _pixels_of_part(pixels: int) -> int:
    """So many of a picture's pixels at a time."""
    return size_of_part(pixels, _LEAST_PIXELS, _MOST_PIXELS)


def tiles(there: Tensor, factor: int, size: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a picture of this ``size`` in which it has a part in what is true of it reduced by
    ``factor``, bool [h, w]; enlarging mixes a neighbour in. They begin with a square, and end with one or the picture,
    and none shares a pixel with another.
    """
    height, width = size
    for rows in bands(height, width, _TILE_ROWS * width, factor):
        small = reduced_rows(rows, factor)
        across = max(1, _pixels_of_part(height * width) // (rows.stop - rows.start) // factor) * factor
        # With a square to each side of them, runs that are less than two apart would share one.
        for run in runs(any_along(there[max(0, small.start - 1) : small.stop + 1], 0), max(1, GAP // factor)):
            last = min((run.stop + 1) * factor, width)
            for start in range(max(0, (run.start - 1) * factor), last, across):
                yield rows, slice(start, min(start + across, last))


def any_along(there: Tensor, axis: int) -> Tensor:
    """As ``there.any(axis)``, bool on the CPU. By numpy: torch looks at one after the other, ten times as long."""
    return torch.from_numpy(there.numpy().any(axis))


def runs(there: Tensor, gap: int = 0) -> list[slice]:
    """From where to where a row, bool [W], is True; or False for no more than ``gap`` places."""
    changes = np.flatnonzero(np.diff(there.numpy(), prepend=False, append=False)).tolist()
    found: list[slice] = []
    for start, stop in zip(changes[::2], changes[1::2], strict=True):
        near = bool(found) and start - found[-1].stop <= gap
        found.append(slice(found.pop().start if near else start, stop))
    return found


def box_mean(values: Tensor, radius: int) -> Tensor:
    """The mean of [1, C, h, w] over a square of ``radius`` pixels to each side, of what is inside of the image."""
    sums = _over_windows(values, radius, torch.add, 0.0)
    counts = []
    for length in values.shape[2:]:
        places = torch.arange(length)
        counts.append((places + radius).clamp_max_(length - 1) - (places - radius).clamp_min_(0) + 1)
    return sums.div_(counts[0][:, None] * counts[1])


def greatest(values: Tensor, radius: int) -> Tensor:
    """The greatest of [1, C, h, w] over a square of ``radius`` pixels to each side: [1, C, h, w]."""
    return _over_windows(values, radius, torch.maximum, -math.inf)


def _over_windows(values: Tensor, radius: int, both: Callable[[Tensor, Tensor], Tensor], beyond: float) -> Tensor:
    """What ``both`` makes, two by two, of all within ``radius`` pixels to each side; the border is ``beyond``.

    Of windows of 1, 2, 4 … pixels, the next of two of the last, and of those that a whole one is made of: the time
    hardly grows with the radius, as that of pooling does.
    """
    size = 2 * radius + 1
    for axis in (2, 3):
        length = values.shape[axis]
        part = F.pad(values, [0, 0, radius, radius] if axis == 2 else [radius, radius], value=beyond)
        whole, done, reach = None, 0, 1
        while reach <= size:
            if size & reach:
                some = part.narrow(axis, done, length)
                whole, done = some if whole is None else both(whole, some), done + reach
            rest = part.shape[axis] - reach
            part = both(part.narrow(axis, 0, rest), part.narrow(axis, reach, rest)) if 2 * reach <= size else part
            reach *= 2
        values = cast(Tensor, whole)
    return values


def linear_model(guide: Tensor, values: Tensor, radius: int, epsilon: float) -> Tensor:
    """Of each window the linear function of the colours that comes nearest to the values: [1, 4, h, w], slope and
    offset."""
    mean, level = box_mean(guide, radius), box_mean(values, radius)
    together = box_mean(guide * values, radius) - mean * level
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = box_mean(torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], 1), radius)
    rr, rg, rb, gg, gb, bb = (
        products[:, k] - mean[:, i] * mean[:, j] + (epsilon if i == j else 0) for k, (i, j) in enumerate(pairs)
    )
    # The inverse of the symmetric 3x3 matrix, by cofactors.
    r, g, b = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    g2, b2, b3 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * r + rg * g + rb * b)
    x, y, z = together[:, 0], together[:, 1], together[:, 2]
    slope = torch.stack([r * x + g * y + b * z, g * x + g2 * y + b2 * z, b * x + b2 * y + b3 * z], 1) * scale[:, None]
    return torch.cat([slope, level - (slope * mean).sum(1, keepdim=True)], 1)
