"""Convolutions in strips: what several layers in a row compute, some rows at a time.

The layers of a small network at its finest sizes are quicker than the memory that their results go to. Done for a strip
of rows, one layer after the other, what lies between them does not leave the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

# So large is a strip of the largest that lies between the layers, at most.
_STRIP_BYTES = 5 << 20
# So many rows of a strip may be wrong where it is cut off.
_REACH = 2


def by_strips(
    layers: Callable[[slice, slice], Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype, channels: int
) -> Tensor:
    """What ``layers`` give, ``shape`` [B, D, H, W], on the CPU, channels-last.

    ``layers(images, rows)`` gives of some images some rows, [b, D, h, W]: from an even one to an even one or the end.
    Where the image goes on, up to two of them may be wrong. ``channels``: what the largest that lies between the layers
    has for each pixel of the result.
    """
    count, outputs, height, width = shape
    size = height * width * channels * dtype.itemsize
    if size <= _STRIP_BYTES:
        return layers(slice(0, count), slice(0, height))
    step = 2 * math.ceil(height / 2 / math.ceil(size / _STRIP_BYTES))
    result = torch.empty((count, height, width, outputs), dtype=dtype).permute(0, 3, 1, 2)
    for index, start in product(range(count), range(0, height, step)):
        end = min(start + step, height)
        rows = slice(max(0, start - _REACH), min(height, end + _REACH))
        strip = layers(slice(index, index + 1), rows)
        result[index, :, start:end] = strip[0, :, start - rows.start : end - rows.start]
    return result
