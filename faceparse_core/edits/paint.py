"""Colour put on a part of a face: only where there is some, in bands, mixed by how much there is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from faceparse_core.edits.colours import to_oklab, to_srgb
from faceparse_core.edits.sitter import Sitter
from faceparse_core.rendering import row_bands, spread


def paint(
    sitter: Sitter,
    box: tuple[slice, slice],
    amount: Tensor,
    change: Callable[[Tensor], Tensor],
) -> None:
    """Mixes ``change`` (OKLab [N, 3] -> OKLab [N, 3]) of the colours in rows and columns of the sitter's part into
    them, by ``amount``, [h, w] in 0..1; where it is 0 nothing is written."""
    pixels = sitter.pixels[box]

    def work(rows: slice) -> None:
        band, share = pixels[rows], amount[rows]
        inside = share > 0
        if bool(inside.any()):
            before = band[inside]
            after = to_srgb(change(to_oklab(before)))
            band[inside] = torch.lerp(before, after, share[inside][:, None])

    spread(work, row_bands((amount.shape[0], amount.shape[1]), 64))


def ramp(values: Tensor, low: float, high: float) -> Tensor:
    """0 at ``low``, 1 at ``high``, smooth between; falling if ``high`` is less."""
    way = ((values - low) / (high - low)).clamp(0, 1)
    return way * way * (3 - 2 * way)


def colours_at(sitter: Sitter, box: tuple[slice, slice], inside: Tensor) -> Tensor:
    """OKLab of the pixels of a box that are inside, bool [h, w]: [N, 3]."""
    return to_oklab(sitter.pixels[box][inside])
