"""Convolutions in strips: what several layers in a row compute, some rows at a time.

The layers of a small network at its finest sizes are quicker than the memory that their results go to. Done for a strip
of rows, one layer after the other, what lies between them does not leave the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# So large is a strip of the largest that lies between the layers; what is no larger than the second is done in one.
_STRIP_BYTES, _WHOLE_BYTES = 3 << 20, 5 << 20


def by_strips(
    layers: Callable[..., Tensor], given: Sequence[Tensor], *, channels: int, reach: int, stride: int = 1
) -> Tensor:
    """``layers(*given)``, from tensors [B, C, H, W] to one of [B, D, H / stride, W / stride], channels-last.

    ``channels``: the most that there are of, between the layers, at the size of what is given. ``reach``: how many rows
    of the result lie to each side of a row that the same rows of what is given matter to. Layers pad with zeros.
    """
    count, _, height, width = given[0].shape
    row_bytes = stride * width * channels * given[0].element_size()
    height //= stride
    if height * row_bytes <= _WHOLE_BYTES:
        return layers(*given)
    strips = min(height, math.ceil(height * row_bytes / _STRIP_BYTES))
    rows, result = math.ceil(height / strips), None
    for index in range(count):
        for start in range(0, height, rows):
            end = min(start + rows, height)
            above, below = max(0, start - reach), min(height, end + reach)
            strip = layers(*(one[index : index + 1, :, above * stride : below * stride] for one in given))
            if result is None:
                shape = count, height, strip.shape[3], strip.shape[1]
                result = torch.empty(shape, dtype=strip.dtype, device=strip.device).permute(0, 3, 1, 2)
            result[index, :, start:end] = strip[0, :, start - above : end - above]
    return result
