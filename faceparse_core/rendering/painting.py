"""Painting: the colours of labels, laid over a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from faceparse_core.rendering.threads import led, spread

# So few rows at a time that most of their columns have one label from top to bottom, so many that threads have more to
# paint than to say what to paint, which they can only do in turns.
_ROWS = 96
# Where runs of columns are shorter on average, they are not looked for.
_SHORTEST_RUN = 16
_MIXED = 255


def lay_over(image: Tensor, labels: Tensor, colours: Tensor, opacity: Tensor, out: Tensor) -> None:
    """Writes the ``image``, uint8 or float (0..1) [H, W, 3], with the colours of its ``labels``, uint8 [H, W], over it
    to ``out``, float32 [H, W, 3] on the CPU.

    ``colours``, float32 [N, 3] in 0..1, and ``opacity``, float32 [N] in 0..1, are those of each label.
    """
    led(lambda: _lay_over(image, labels, colours, opacity, out))


def _lay_over(image: Tensor, labels: Tensor, colours: Tensor, opacity: Tensor, out: Tensor) -> None:
    height, width = labels.shape
    laid = colours * opacity[:, None]
    kept = (1 - opacity) / (255 if image.dtype == torch.uint8 else 1)
    # A run of columns with one label is one sum, with as much of a row of its colour.
    rows_laid, shares_kept = laid.repeat(1, width), kept.tolist()
    kept = kept[:, None].repeat(1, 3)

    def lay(rows: slice) -> None:
        band, ids = out[rows].copy_(image[rows]).flatten(1), labels[rows]
        for start, end, label in _runs(ids):
            part = band[:, 3 * start : 3 * end]
            if label == _MIXED:
                some = ids[:, start:end].flatten().int()
                part.mul_(kept.index_select(0, some).view(part.shape))
                part.add_(laid.index_select(0, some).view(part.shape))
            elif opacity[label]:
                torch.add(rows_laid[label, : part.shape[1]], part, alpha=shares_kept[label], out=part)
            elif shares_kept[label] != 1:
                part.mul_(shares_kept[label])

    spread(lay, [slice(top, min(top + _ROWS, height)) for top in range(0, height, _ROWS)])


def _runs(labels: Tensor) -> list[tuple[int, int, int]]:
    """Of some rows of labels [h, W] the runs of columns: start, end, and the label all over it, or ``_MIXED``."""
    width = labels.shape[1]
    low, high = labels.amin(0), labels.amax(0)
    of_columns = low.masked_fill_(low != high, _MIXED)
    starts = [0, *((of_columns[1:] != of_columns[:-1]).nonzero().flatten() + 1).tolist()]
    if len(starts) * _SHORTEST_RUN > width:
        return [(0, width, _MIXED)]
    return list(zip(starts, [*starts[1:], width], of_columns[starts].tolist(), strict=True))
