"""Colour put on a part of a face: only where there is some, in bands, mixed by how much there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from faceparse_core.edits.colours import to_oklab, to_srgb
from faceparse_core.edits.rim import FAINT
from faceparse_core.edits.sitter import Sitter
from faceparse_core.masks.reduced import parts_of
from faceparse_core.rendering import spread


def paint(
    sitter: Sitter,
    box: tuple[slice, slice],
    amount: Tensor,
    change: Callable[[Tensor], Tensor],
) -> None:
    """Mixes ``change`` (OKLab [N, 3] -> OKLab [N, 3]) of the colours in rows and columns of the sitter's part into
    them, by ``amount``, [h, w] in 0..1; where it is too little to be seen nothing is written."""
    pixels = sitter.pixels[box]

    def work(rows: slice) -> None:
        share = amount[rows]

        def mixed(before: Tensor, inside: Tensor) -> Tensor:
            after = to_srgb(change(to_oklab(before.T))).T
            return torch.lerp(before, after, share.flatten().index_select(0, inside))

        put(pixels[rows], share > FAINT, mixed)

    spread(work, parts_of(*amount.shape))


def put(pixels: Tensor, there: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Writes ``change`` of red, green and blue [3, N] at the N ``places`` that it is given, too, where it is ``there``,
    bool [h, w], into pixels [h, w, 3]."""
    inside = places(there)
    if len(inside):
        width = there.shape[1]
        rows = slice(int(inside[0]) // width, int(inside[-1]) // width + 1)  # of a thin line these are few
        planes = pixels[rows].permute(2, 0, 1).reshape(3, -1)
        within = inside - rows.start * width
        planes.index_copy_(1, within, change(planes.index_select(1, within), inside))
        pixels[rows] = planes.view(3, -1, width).permute(1, 2, 0)


def places(there: Tensor) -> Tensor:
    """Where bool [h, w] is True, counted row by row: int64 [N]. By numpy, and channel by channel what is picked by it:
    to pick pixels by the bool itself takes torch many times as long."""
    return torch.from_numpy(np.flatnonzero(there.numpy()))


def quantiles(values: Tensor, *shares: float) -> list[float]:
    """Quantiles of values [N], of some thousand of them that lie evenly among all."""
    return np.quantile(values[:: max(1, len(values) // 4096)].numpy(), shares).tolist()


def median(colours: Tensor) -> Tensor:
    """Of colours [N, 3] the median of each channel [3], the lower where two are in the middle; as that of torch, which
    takes twice as long."""
    middle = (len(colours) - 1) // 2
    return torch.from_numpy(np.partition(colours.T.numpy(), middle, axis=1)[:, middle].copy())


def ramp(values: Tensor, low: float, high: float) -> Tensor:
    """0 at ``low``, 1 at ``high``, smooth between; falling if ``high`` is less."""
    way = ((values - low) / (high - low)).clamp(0, 1)
    return way * way * (3 - 2 * way)


def colours_at(sitter: Sitter, box: tuple[slice, slice], inside: Tensor) -> Tensor:
    """OKLab of the pixels of a box that are inside, bool [h, w]: [N, 3]."""
    return to_oklab(sitter.pixels[box].permute(2, 0, 1).reshape(3, -1).index_select(1, places(inside)).T)
