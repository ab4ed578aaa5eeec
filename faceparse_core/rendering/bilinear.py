"""Rendering: from the small logits of a window to labels and probabilities at the size of the image.

Everything is bilinear with ``align_corners=False``, the samples at the centres of pixels: the same function as
``F.interpolate`` where the window is the image. Logits of full size (1.3 GB for a 4096x4096 image) never exist.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

# What is made and reduced at a time; small enough to stay in the processor's cache between the two.
_BAND_BYTES = 4 << 20
# A GPU has work for all of itself in a larger one.
_BAND_BYTES_ON_GPU = 256 << 20


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
    best = logits.max(0).indices.to(torch.uint8)
    result = best[down.first][:, across.first]

    right = torch.cat([best[:, 1:], best[:, -1:]], dim=1)
    wide = torch.where(best == right, best, 255)  # 255: the two differ
    below = torch.cat([wide[1:], wide[-1:]])
    mixed = (wide != below) | (wide == 255)
    rows, columns = _runs(down, cells_down), _runs(across, cells_across)
    mixed &= (rows.length > 0)[:, None] & (columns.length > 0)
    i, j = mixed.nonzero(as_tuple=True)
    tall, broad = int(rows.length.max()), int(columns.length.max())
    if 2 * len(i) * tall * broad > height * width:
        for band, values in bands(logits, window, size):
            result[band] = values.max(0).indices.to(torch.uint8)
        return result

    flat, result_flat = logits.flatten(1), result.view(-1)
    for part in _parts(len(i), tall * broad * len(logits) * logits.element_size(), logits.device):
        y, x = rows.pixels(i[part], tall), columns.pixels(j[part], broad)
        upper, lower = i[part] * cells_across, (i[part] + 1).clamp_max(cells_down - 1) * cells_across
        left, right = j[part], (j[part] + 1).clamp_max(cells_across - 1)
        share = across.share[x]
        top = torch.lerp(flat[:, upper + left, None], flat[:, upper + right, None], share)
        bottom = torch.lerp(flat[:, lower + left, None], flat[:, lower + right, None], share)
        values = torch.lerp(top[:, :, None], bottom[:, :, None], down.share[y][:, :, None])
        places = y[:, :, None] * width + x[:, None]
        result_flat[places.view(-1)] = values.max(0).indices.to(torch.uint8).view(-1)
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
