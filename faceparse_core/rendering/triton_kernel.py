"""Labels on a CUDA GPU in one kernel: upsampling and the greatest label of each pixel, nothing written in between."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 256  # pixels of a row for one program


@triton.jit
def _kernel(
    logits, first_x, second_x, share_x, first_y, second_y, share_y, result,
    width, cells_down, cells_across, LABELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    y = tl.program_id(0)
    x = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = x < width
    left = tl.load(first_x + x, mask=inside, other=0)
    right = tl.load(second_x + x, mask=inside, other=0)
    across = tl.load(share_x + x, mask=inside, other=0.0)
    upper = tl.load(first_y + y) * cells_across
    lower = tl.load(second_y + y) * cells_across
    down = tl.load(share_y + y)
    best = tl.full((TILE,), float("-inf"), tl.float32)
    label = tl.zeros((TILE,), tl.int32)
    for index in range(LABELS):
        plane = logits + index * cells_down * cells_across
        a = tl.load(plane + upper + left, mask=inside, other=0.0)
        b = tl.load(plane + upper + right, mask=inside, other=0.0)
        c = tl.load(plane + lower + left, mask=inside, other=0.0)
        d = tl.load(plane + lower + right, mask=inside, other=0.0)
        above = a + across * (b - a)
        value = above + down * (c + across * (d - c) - above)
        greater = value > best
        best = tl.where(greater, value, best)
        label = tl.where(greater, index, label)
    tl.store(result + y * width + x, label.to(tl.uint8), mask=inside)


def labels(logits: Tensor, across: tuple[Tensor, ...], down: tuple[Tensor, ...]) -> Tensor:
    """uint8 [H, W] of ``logits``, float32 [labels, h, w], contiguous; ``across`` and ``down`` say which cells each
    pixel mixes and in which shares (``bilinear.samples``)."""
    height, width = len(down[0]), len(across[0])
    result = torch.empty(height, width, dtype=torch.uint8, device=logits.device)
    count, cells_down, cells_across = logits.shape
    grid = (height, triton.cdiv(width, _TILE))
    _kernel[grid](logits, *across, *down, result, width, cells_down, cells_across, LABELS=count, TILE=_TILE)
    return result
