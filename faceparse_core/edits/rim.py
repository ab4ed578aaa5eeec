"""The rim of a mask: what its soft edge is mixed of, told from the colours on either side of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core.masks.reduced import averaged, box_mean

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


@dataclass(frozen=True)
class Rim:
    """Of a picture and its mask, on a coarse grid: the colours inside and outside, and how far it is to the edge."""

    cells: Tensor  # [1, 7, h, w]: inside (3), outside (3), the share of the neighbourhood that is in the mask
    factor: int

    def of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """What the cells say at these pixels, int64 [N]: [7, N]."""
        height, width = self.cells.shape[2:]
        places = [
            (places * (2 / (self.factor * size))).add_(1 / (self.factor * size) - 1)
            for places, size in ((columns, width), (rows, height))
        ]
        grid = torch.stack(places, 1)[None, None]
        found = F.grid_sample(self.cells, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found[0, :, 0]

    def mixed(self, alpha: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Which of these pixels lie in the rim, int64 [M]; ``alpha``: the mask there [N]."""
        whole = (self.cells[0, 6] >= _WHOLE).flatten()
        # Divided once for each row and column, not for each pixel.
        down, across = (torch.arange(side * self.factor) // self.factor for side in self.cells.shape[2:])
        cell = (down * self.cells.shape[3]).index_select(0, rows) + across.index_select(0, columns)
        return ((alpha < 1) | ~whole.index_select(0, cell)).nonzero()[:, 0]

    def parted(self, pixels: Tensor, alpha: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The colours of what is in the mask, [N, 3], and its share [N], at pixels [N, 3] of the rim; ``alpha`` [N].

        The share is no greater than the mask's; it is less where a pixel looks like what is beside the mask: skin that
        was taken for hair. The colours are those of the inside plus what the mixture does not explain (Forte 2021).
        """
        found = self.of(rows, columns)
        inside, outside, whole = found[:3], found[3:6], found[6]
        mixture = pixels.T.contiguous()  # by channels, which is quicker
        way, away = inside - outside, mixture - outside
        alike = 3 * _ALIKE**2
        own = (away * way).sum(0).add_(alike).div_((way * way).sum(0).add_(alike))
        own.mul_((_GENEROUS + _TRUSTED) - _TRUSTED * alpha).clamp_(0, 1)
        # Half-way into the mask's neighbourhood the picture is trusted less and less, and the mask more.
        unsure = ((_WHOLE - whole) / (_WHOLE - 0.5)).clamp_(0, 1).sqrt_()
        share = torch.minimum(alpha, own.sub_(1).mul_(unsure).add_(1))
        # What the mixture does not explain, by its share.
        left_over = away.sub_(way.mul_(share)).mul_(share).add_(inside)
        return torch.where(share < 1, left_over, mixture).clamp_(0, 1).T, share


def rim(image: Tensor, mask: Tensor) -> Rim:
    """The rim of a mask, float32 [H, W], in an image, float32 [H, W, 3]."""
    factor = max(1, math.ceil(max(mask.shape) / _SIDE))
    colours = averaged(image, factor).permute(2, 0, 1)[None]
    share = averaged(mask[..., None], factor).permute(2, 0, 1)[None]
    within, beyond = share**6, (1 - share) ** 6
    sums = torch.cat([within, beyond, colours * within, colours * beyond], 1)
    coarse = F.avg_pool2d(sums, _WIDE, ceil_mode=True, count_include_pad=False) if min(share.shape[2:]) > 1 else sums
    coarse = box_mean(coarse, _FARTHER) + 1e-3 * sums.mean((2, 3), keepdim=True)
    wide = F.interpolate(coarse, size=share.shape[2:], mode="bilinear", align_corners=False)
    # The inside is told from far, since near the edge it is no longer pure; the outside is what is beside it.
    near = box_mean(sums, _NEAR) + 1e-2 * wide
    inside, outside = wide[:, 2:5] / (wide[:, :1] + 1e-9), near[:, 5:8] / (near[:, 1:2] + 1e-9)
    return Rim(torch.cat([inside, outside, box_mean(share, _RIM)], 1), factor)
