"""The rim of a mask: what its soft edge is mixed of, told from the colours on either side of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core.masks.reduced import averaged, averaged_by_all, box_mean, enlarged, reduced_rows
from faceparse_core.rendering import alone

FAINT = 1 / 1024
"""Less of a mask than this is not seen in 8 bits, nor what is missing to the whole."""

# The longer side of what the colours are averaged in; a neighbourhood reaches so many of its cells.
_SIDE, _NEAR, _WIDE, _FARTHER = 400, 3, 6, 3
# The rim is so many cells wide.
_RIM = 6
# The rim ends where so much of the neighbourhood is in the mask.
_WHOLE = 0.995
# Colours so near to each other, in 0..1, tell nothing of a mixture.
_ALIKE = 0.06
# A pixel that is mostly like the inside is all of it, for hair has many shades; and where the mask is soft it has been
# asked already.
_GENEROUS, _TRUSTED = 1.15, 0.8
# How much more varied than the inside what is behind it is taken to be, in variance.
_VARIED = 1.5


@dataclass(frozen=True)
class Rim:
    """Of a picture and its mask, on a coarse grid: the colours inside and outside, and how far it is to the edge."""

    cells: Tensor  # [1, 7, h, w]: inside (3), outside (3), the share of the neighbourhood that is in the mask
    share: Tensor  # [h, w]: of each cell what is in the mask
    factor: int

    def crosses(self, tile: tuple[slice, slice]) -> bool:
        """Whether any of the rim lies in these rows and columns."""
        rows, columns = (reduced_rows(side, self.factor) for side in tile)
        return bool((self.cells[0, 6, rows, columns] < _WHOLE).any())

    def parted(
        self, pixels: Tensor, alpha: Tensor, tile: tuple[slice, slice], *, certain: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The colours of what is in the mask, [3, h, w], and its share [h, w], at the pixels [3, h, w] of these rows
        and columns; ``alpha`` [h, w]: the mask there.

        The share is no greater than the mask's; it is less where a pixel looks like what is beside the mask: skin that
        was taken for hair. The colours are those of the inside plus what the mixture does not explain (Forte 2021);
        where the share is 1 they are the pixels'. ``certain``: where the mask is all but 1, the share is 1.
        """
        found = enlarged(self.cells, self.factor, *tile)[0]
        inside, outside, whole = found[:3], found[3:6], found[6]
        way, away = inside - outside, pixels - outside
        alike = 3 * _ALIKE**2
        own = (away * way).sum(0).add_(alike).div_((way * way).sum(0).add_(alike))
        own.mul_((_GENEROUS + _TRUSTED) - _TRUSTED * alpha).clamp_(0, 1)
        # Half-way into the mask's neighbourhood the picture is trusted less and less, and the mask more.
        unsure = whole.sub_(_WHOLE).mul_(-1 / (_WHOLE - 0.5)).clamp_(0, 1).sqrt_()
        share = torch.minimum(alpha, own.sub_(1).mul_(unsure).add_(1))
        if certain:
            share = torch.maximum(share, (alpha >= 1 - FAINT).float())
        # What the mixture does not explain is likelier the inside's the more of it there is.
        theirs = share / (alpha * alpha + _VARIED * (1 - alpha).square_())
        own = away.sub_(way.mul_(share)).mul_(theirs).add_(inside).clamp_(0, 1)
        return torch.lerp(pixels, own, (share < 1).float()), share


def rim(image: Tensor, mask: Tensor) -> Rim:
    """The rim of a mask, float32 [H, W], in an image, float32 [H, W, 3]."""
    factor = max(1, math.ceil(max(mask.shape) / _SIDE))
    colours, share = averaged_by_all(image, factor), averaged_by_all(mask[..., None], factor)
    cells = alone(lambda: _cells(colours.permute(2, 0, 1)[None], share.permute(2, 0, 1)[None]))
    return Rim(cells, share[..., 0], factor)


def _cells(colours: Tensor, share: Tensor) -> Tensor:
    """What a Rim holds, of the colours [1, 3, h, w] and the share [1, 1, h, w] of each cell."""
    squares = torch.cat([share, 1 - share], 1).square()
    within, beyond = (squares * squares * squares).split(1, 1)
    sums = torch.cat([within, colours * within, beyond, colours * beyond], 1)
    coarse = averaged(sums, _WIDE, (2, 3)) if min(share.shape[2:]) > 1 else sums
    coarse = box_mean(coarse, _FARTHER) + 1e-3 * sums.mean((2, 3), keepdim=True)
    wide = F.interpolate(coarse, size=share.shape[2:], mode="bilinear", align_corners=False)
    # The inside is told from far, since near the edge it is no longer pure; the outside is what is beside it.
    near = box_mean(sums[:, 4:], _NEAR).add_(wide[:, 4:], alpha=1e-2)
    inside, outside = (some[:, 1:] / (some[:, :1] + 1e-9) for some in (wide[:, :4], near))
    return torch.cat([inside, outside, box_mean(share, _RIM)], 1)
