"""Rendering: from the small logits of a window to labels and probabilities at the size of the image.

Everything is bilinear with ``align_corners=False``, the samples at the centres of pixels: the same function as
``F.interpolate`` where the window is the image. Logits of full size (1.3 GB for a 4096x4096 image) never exist.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core.rendering import threads

# What is made and reduced at a time; small enough to stay in the processor's cache between the two.
_BAND_BYTES = 4 << 20
# A GPU has work for all of itself in a larger one.
_BAND_BYTES_ON_GPU = 256 << 20
# Of labels, which take little for a pixel, up to so many may be made at a time.
_MOST_LABELS = 1 << 20
# Soft masks: the finer cells are so many pixels wide, and a probability may be so far off.
_FINE, _MOST_STEPS, _OFF = 5, 16, 1 / 600


_log = logging.getLogger("faceparse")


@dataclass(frozen=True)
class Window:
    """The rectangle of an image that the network saw, in the image's pixels. It may reach beyond the image.

    ``angle``: by how many degrees it is turned about its centre, clockwise. Only upright ones are rendered.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


def labels(logits: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """The most likely label of each pixel, uint8 [H, W], of ``logits``, float32 [labels, h, w], on their device.

    Between four samples of which the same label is the greatest it is so everywhere, because what lies between is an
    average of the four. So only the cells in which labels meet are computed, a few per cent of a portrait.
    """
    height, width = size
    _, cells_down, cells_across = logits.shape
    across = samples(width, window.x, window.width, cells_across, logits.device)
    down = samples(height, window.y, window.height, cells_down, logits.device)
    if logits.device.type == "cuda" and (kernel := _triton_kernel()):
        return kernel(logits.contiguous(), across, down)
    result = torch.empty(size, dtype=torch.uint8, device=logits.device)
    cells = _Cells(_with_rim(logits), down, across)
    if logits.device.type == "cpu":
        threads.spread(lambda some: cells.label(some, result), cells.parts(_MOST_LABELS))
    else:
        cells.label(slice(0, cells_down), result)
    return result


@cache
def _triton_kernel() -> Callable | None:
    """The kernel for CUDA GPUs, where Triton is installed and works: on Windows, for one, it often does not."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from faceparse_core.rendering import triton_kernel

        unit = torch.zeros(1, 1, 1, device="cuda")
        one = samples(1, 0, 1, 1, unit.device)
        triton_kernel.labels(unit, one, one)
    except Exception as error:  # Triton compiles here, with compilers and drivers that raise what they like
        _log.warning("Triton does not work here, labels are rendered by PyTorch: %s", error)
        return None
    return triton_kernel.labels


def bands(logits: Tensor, window: Window, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the image, from the top down, and their logits, [labels, rows, W], from ``logits`` [labels, h, w]."""
    height, width = size
    across = samples(width, window.x, window.width, logits.shape[2], logits.device)
    down = samples(height, window.y, window.height, logits.shape[1], logits.device)
    wide = torch.lerp(logits[:, :, across.first], logits[:, :, across.second], across.share)
    for rows in _parts(height, width * len(logits) * logits.element_size(), logits.device):
        yield (
            rows,
            torch.lerp(wide[:, down.first[rows]], wide[:, down.second[rows]], down.share[rows, None]),
        )


def soft_masks(logits: Tensor, window: Window, regions: Sequence[Sequence[int]], out: Tensor) -> None:
    """Writes the summed probabilities of the labels of each of the ``regions`` to ``out``, float32 [R, H, W] on the
    CPU, of ``logits``, float32 [labels, h, w].

    The probability of a region is the logistic function of one number, its log-odds: the log of the sum of what is in
    it over that of what is not. Between four samples these are nearly linear, but where several labels meet on one
    side. So they are computed at the samples, and where it matters on a finer grid or, at last, for each pixel; then
    they are interpolated and one exponential is taken for each pixel. The result is within 1/512 of the exact one.
    """
    if logits.device.type != "cpu":
        chosen = torch.zeros(len(regions), len(logits), device=logits.device)
        for row, region in zip(chosen, regions, strict=True):
            row[list(region)] = 1
        for rows, values in bands(logits, window, (out.shape[1], out.shape[2])):
            out[:, rows] = torch.tensordot(chosen, values.softmax(0), 1).clamp_(0, 1)
        return
    threads.led(lambda: _soft_masks(logits, window, regions, out))


def _soft_masks(logits: Tensor, window: Window, regions: Sequence[Sequence[int]], out: Tensor) -> None:
    """The same on the CPU."""
    height, width = out.shape[1:]
    down = samples(height, window.y, window.height, logits.shape[1], logits.device)
    across = samples(width, window.x, window.width, logits.shape[2], logits.device)
    area = window.width * window.height / logits[0].numel()
    steps = min(max(1, round(math.sqrt(area) / _FINE)), _MOST_STEPS)
    cells = _FineCells(_with_rim(logits.float()), down, across, down.finer(steps), across.finer(steps), steps)
    for region, mask in zip(regions, out, strict=True):
        inside = sorted(set(region))
        outside = [label for label in range(len(logits)) if label not in inside]
        if inside and outside:
            cells.fill((inside, outside), mask)
        else:
            mask.fill_(bool(inside))


def _with_rim(logits: Tensor) -> Tensor:
    """Beyond the last samples there is one more cell to each side, all over which they repeat: [labels, h+1, w+1]."""
    return F.pad(logits[None], (0, 1, 0, 1), mode="replicate")[0]


@dataclass(frozen=True)
class _Cells:
    """Logits [labels, h + 1, w + 1] and the pixels among the cells between them."""

    logits: Tensor
    down: _Samples
    across: _Samples

    def parts(self, most: int = 0) -> list[slice]:
        """The rows of cells in parts of about as many pixels, some milliseconds of work; perhaps of up to ``most``."""
        ends = torch.bincount(self.down.first, minlength=self.logits.shape[1] - 1).cumsum(0).tolist()
        width = len(self.across.first)
        least = _BAND_BYTES // 16
        enough = threads.size_of_part(ends[-1] * width, least, max(least, most)) // width
        parts, start, done = [], 0, 0
        for row, end in enumerate(ends, 1):
            if end > done and (end - done >= enough or row == len(ends)):
                parts.append(slice(start, row))
                start, done = row, end
        return parts

    def label(self, cells: slice, result: Tensor) -> None:
        """The most likely labels of the pixels of some rows of cells, written to those of the image [H, W]."""
        logits = self.logits[:, cells.start : cells.stop + 1]
        best = logits.max(0).indices.to(torch.uint8)
        rows = self.down.pixels(cells)
        wide = best.index_select(1, self.across.first)
        result[rows] = wide.index_select(0, self.down.first[rows] - cells.start)
        corners = _corners(best)
        mixed = (corners[0] != corners[1]) | (corners[0] != corners[2]) | (corners[0] != corners[3])
        down, across = _runs(self.down, self.logits.shape[1] - 1), _runs(self.across, self.logits.shape[2] - 1)
        mixed &= (down.length[cells] > 0)[:, None] & (across.length > 0)
        i, j = mixed.nonzero(as_tuple=True)
        if not len(i):
            return
        corners = torch.stack([corner[:, i, j] for corner in _corners(logits)], -1)
        i = i + cells.start
        tall, broad = int(down.length[i].max()), int(across.length[j].max())
        if 2 * len(i) * tall * broad > result[rows].numel():
            self._label_all(cells, rows, result)
            return
        for part in _parts(len(i), tall * broad * len(logits) * logits.element_size(), logits.device):
            y, x = down.pixels(i[part], tall), across.pixels(j[part], broad)
            # The greatest of all is nowhere one that is less than another at all four corners.
            some = corners[:, part]
            ahead = some - some.gather(0, some.mean(-1).argmax(0)[None, :, None].expand(1, -1, 4))
            able = (ahead.amax((1, 2)) > -1e-3).nonzero().flatten()
            values = _interpolated(self.logits[able], self.down, self.across, y, x)
            result[y[:, :, None], x[:, None]] = able.to(torch.uint8)[values.max(0).indices]

    def _label_all(self, cells: slice, rows: slice, result: Tensor) -> None:
        """The same where labels meet nearly everywhere: without asking where."""
        logits = self.logits[:, cells.start : cells.stop + 1]
        left, right = (logits.index_select(2, self.across.first + k) for k in (0, 1))
        wide = torch.lerp(left, right, self.across.share)
        for part in _parts(rows.stop - rows.start, wide[:, 0].numel() * wide.element_size(), wide.device):
            first = self.down.first[rows][part] - cells.start
            upper, lower = wide.index_select(1, first), wide.index_select(1, first + 1)
            result[rows][part] = torch.lerp(upper, lower, self.down.share[rows][part, None]).max(0).indices


@dataclass(frozen=True)
class _FineCells(_Cells):
    """The same with the pixels among cells that are divided into so many ``steps`` a side."""

    fine_down: _Samples
    fine_across: _Samples
    steps: int

    def fill(self, region: tuple[list[int], list[int]], mask: Tensor) -> None:
        """The pixels of the mask [H, W] of a region: labels in it, labels not in it."""
        odds, off = self._log_odds(region)
        down, across = _runs(self.down, off.shape[0]), _runs(self.across, off.shape[1])
        off &= (down.length > 0)[:, None] & (across.length > 0)
        i, j = off.nonzero(as_tuple=True)
        if self.steps > 1:
            size = [(count - 1) * self.steps + 1 for count in odds.shape]
            odds = F.interpolate(odds[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]
            i, j = self._refine(odds, region, i, j)
        threads.spread(partial(self._fill_smoothly, odds=odds, mask=mask), self.parts())
        rows = _runs(self.fine_down, (self.logits.shape[1] - 1) * self.steps)
        columns = _runs(self.fine_across, (self.logits.shape[2] - 1) * self.steps)
        there = (rows.length[i] > 0) & (columns.length[j] > 0)
        i, j = i[there], j[there]
        if not len(i):
            return
        tall, broad = int(rows.length[i].max()), int(columns.length[j].max())

        def fill_exactly(some: slice) -> None:
            y, x = rows.pixels(i[some], tall), columns.pixels(j[some], broad)
            values = _interpolated(self.logits, self.down, self.across, y, x)
            mask[y[:, :, None], x[:, None]] = (_log_sum(values[region[0]]) - _log_sum(values[region[1]])).sigmoid_()

        threads.spread(fill_exactly, _parts(len(i), tall * broad * len(self.logits) * 32, mask.device))

    def _log_odds(self, region: tuple[list[int], list[int]]) -> tuple[Tensor, Tensor]:
        """As the function of this name, of all samples."""
        parts = list(_parts(self.logits.shape[1] - 1, self.logits[:, 0].numel() * 32, self.logits.device))
        found: list[tuple[Tensor, ...]] = [()] * len(parts)

        def look(index: int) -> None:
            found[index] = _log_odds(self.logits[:, parts[index].start : parts[index].stop + 1], region)

        threads.spread(look, range(len(parts)))
        odds, off = zip(*found, strict=True)
        return torch.cat([*(part[:-1] for part in odds), odds[-1][-1:]]), torch.cat(off)

    def _refine(self, odds: Tensor, region: tuple[list[int], list[int]], i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the log-odds at the samples within the cells i, j to those of the finer grid; returns the finer cells
        between which they may be wrong all the same."""
        logits, steps = self.logits, self.steps
        inner = torch.arange(steps + 1)
        parts = list(_parts(len(i), steps**2 * len(logits) * 16, logits.device))
        found: list[tuple[Tensor, ...]] = [()] * len(parts)

        def look(index: int) -> None:
            up, left = i[parts[index]], j[parts[index]]
            corners = torch.stack([logits[:, up + k, left + n] for k in (0, 1) for n in (0, 1)], -1)
            corners = corners.unflatten(2, (2, 2)).transpose(0, 1)
            finer = F.interpolate(corners, size=steps + 1, mode="bilinear", align_corners=True).transpose(0, 1)
            y, x = up[:, None] * steps + inner, left[:, None] * steps + inner
            values, off = _log_odds(finer, region)
            n, k, m = off.nonzero(as_tuple=True)
            found[index] = y, x, values, torch.stack([y[n, k], x[n, m]])

        threads.spread(look, range(len(parts)))
        for y, x, values, _ in found:  # in order: neighbours share samples
            odds[y[:, :, None], x[:, None]] = values
        if not found:
            return i, j
        fine_i, fine_j = torch.cat([wrong for *_, wrong in found], 1)
        return fine_i, fine_j

    def _fill_smoothly(self, cells: slice, odds: Tensor, mask: Tensor) -> None:
        """The pixels of some rows of cells, between the log-odds of the finer grid."""
        top = cells.start * self.steps
        odds = odds[top : cells.stop * self.steps + 1]
        rows = self.down.pixels(cells)
        left, right = (odds.index_select(1, self.fine_across.first + k) for k in (0, 1))
        first, share = self.fine_down.first[rows, None] - top, self.fine_down.share[rows, None]
        weights = torch.zeros(len(first), len(odds)).scatter_(1, first, 1 - share).scatter_(1, first + 1, share)
        torch.mm(weights, torch.lerp(left, right, self.fine_across.share), out=mask[rows])
        mask[rows].sigmoid_()


def _log_odds(logits: Tensor, region: tuple[list[int], list[int]]) -> tuple[Tensor, Tensor]:
    """Of a region, labels in it and labels not in it, the log-odds at samples, logits [labels, …, h, w]: [..., h, w];
    and whether between four of them what is interpolated may be wrong: bool [..., h - 1, w - 1].

    The log of a sum of exponentials is convex. In a cell it is no more than the mean of the corners', and no less than
    its tangent plane at the middle: so far at most the interpolated one is off, and the probability by so much less as
    it is near 0 or 1.
    """
    sums, gap = [], torch.zeros(())
    for labels in region:
        some = logits[labels]
        sums.append(_log_sum(some))
        if len(labels) > 1:
            a, b, c, d = _corners(some)
            middle = (a + b + c + d).mul_(0.25)
            most = middle.amax(0)
            shares = (middle - most).exp_()
            total = shares.sum(0)
            shares /= total
            level = total.log_().add_(most).sub_((shares * middle).sum(0))
            for corner, log_sum in zip(_corners(some), _corners(sums[-1]), strict=True):
                gap = torch.maximum(gap, log_sum - (shares * corner).sum(0) - level)
    odds = sums[0] - sums[1]
    low, high = (torch.stack(_corners(bound)).amax(0) for bound in (-odds, odds))
    nearest = torch.maximum(-low, -high).sub_(gap).clamp_(min=0)  # to odds of one to one
    share = nearest.sigmoid_()
    return odds, gap * share * (1 - share) > _OFF


def _log_sum(logits: Tensor) -> Tensor:
    """The log of the sum of the exponentials of logits [labels, …] (torch's own is three times slower)."""
    if len(logits) == 1:
        return logits[0]
    most = logits.amax(0)
    return (logits - most).exp_().sum(0).log_().add_(most)


def _corners(values: Tensor) -> list[Tensor]:
    """The four corners of each cell between samples [..., h, w], each [..., h - 1, w - 1]."""
    return [values[..., :-1, :-1], values[..., :-1, 1:], values[..., 1:, :-1], values[..., 1:, 1:]]


def _interpolated(logits: Tensor, down: _Samples, across: _Samples, y: Tensor, x: Tensor) -> Tensor:
    """Logits [labels, n, tall, broad] of n groups of pixels, rows [n, tall] and columns [n, broad], each in a cell."""
    columns = logits.shape[2]
    flat, upper, left = logits.flatten(1), down.first[y[:, :1]] * columns, across.first[x[:, :1]]
    lower, right = down.second[y[:, :1]] * columns, across.second[x[:, :1]]
    share = across.share[x]
    top = torch.lerp(flat[:, upper + left], flat[:, upper + right], share)
    bottom = torch.lerp(flat[:, lower + left], flat[:, lower + right], share)
    return torch.lerp(top[:, :, None], bottom[:, :, None], down.share[y][:, :, None])


def row_bands(shape: Sequence[int], bytes_per_pixel: int) -> Iterator[slice]:
    """Slices over the rows of an image of ``shape`` (height, width), each with a band's worth of bytes."""
    height, width = shape
    return _parts(height, width * bytes_per_pixel, torch.device("cpu"))


def _parts(count: int, bytes_each: int, device: torch.device) -> Iterator[slice]:
    step = max(1, (_BAND_BYTES if device.type == "cpu" else _BAND_BYTES_ON_GPU) // bytes_each)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class _Samples(NamedTuple):
    """For each pixel along an axis the two cells to mix and the share of the second one."""

    first: Tensor
    second: Tensor
    share: Tensor

    def finer(self, steps: int) -> _Samples:
        """The same pixels among cells that are divided into so many, numbered through."""
        if steps == 1:
            return self
        place = self.share.double() * steps
        part = place.floor().clamp_(max=steps - 1)
        first = self.first * steps + part.long()
        return _Samples(first, first + 1, (place - part).float())

    def pixels(self, cells: slice) -> slice:
        """The pixels whose first sample is one of these cells."""
        ends = torch.searchsorted(self.first, torch.tensor([cells.start, cells.stop], device=self.first.device))
        return slice(*ends.tolist())


def samples(pixels: int, start: float, length: float, cells: int, device: torch.device) -> _Samples:
    """The ``cells`` cover the pixels from ``start`` over ``length``; beyond the outer centres the border repeats."""
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    position = ((centres - start) * (cells / length) - 0.5).clamp(0, cells - 1)
    first = position.floor().long()
    second = (first + 1).clamp_max(cells - 1)
    return _Samples(first.to(device), second.to(device), (position - first).float().to(device))


class _Runs(NamedTuple):
    """For each cell along an axis the pixels whose first sample it is: where they begin and how many they are."""

    start: Tensor
    length: Tensor

    def pixels(self, cells: Tensor, count: int) -> Tensor:
        """``count`` pixels of each of the ``cells`` [N]: [N, count]; a shorter run repeats its last one."""
        steps = torch.arange(count, device=cells.device)
        return self.start[cells, None] + torch.minimum(steps, self.length[cells, None] - 1)


def _runs(samples: _Samples, cells: int) -> _Runs:
    length = torch.bincount(samples.first, minlength=cells)
    return _Runs(length.cumsum(0) - length, length)
