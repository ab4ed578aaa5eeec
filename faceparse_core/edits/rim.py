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
        """What the cells say at these pixels, int64 [N]: [N, 7]."""
        height, width = self.cells.shape[2:]
        x = ((columns + 0.5) / self.factor / width) * 2 - 1
        y = ((rows + 0.5) / self.factor / height) * 2 - 1
        grid = torch.stack([x, y], 1)[None, None]
        found = F.grid_sample(self.cells, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found[0, :, 0].T

    def mixed(self, alpha: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Which of these pixels lie in the rim, int64 [M]; ``alpha``: the mask there [N]."""
        whole = (self.cells[0, 6] >= _WHOLE).flatten()
        cell = rows // self.factor * self.cells.shape[3] + columns // self.factor
        return ((alpha < 1) | ~whole[cell]).nonzero()[:, 0]

    def parted(self, pixels: Tensor, alpha: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The colours of what is in the mask, [N, 3], and its share [N], at pixels [N, 3] of the rim; ``alpha`` [N].

        The share is no greater than the mask's; it is less where a pixel looks like what is beside the mask: skin that
        was taken for hair. The colours are those of the inside plus what the mixture does not explain (Forte 2021).
        """
        found = self.of(rows, columns)
        inside, outside, whole = found[:, :3], found[:, 3:6], found[:, 6]
        way = inside - outside
        alike = 3 * _ALIKE**2
        own = (((pixels - outside) * way).sum(1) + alike) / ((way * way).sum(1) + alike)
        own = (own * (_GENEROUS + _TRUSTED * (1 - alpha))).clamp_(0, 1)
        # Half-way into the mask's neighbourhood the picture is trusted less and less, and the mask more.
        unsure = ((_WHOLE - whole) / (_WHOLE - 0.5)).clamp_(0, 1).sqrt_()
        share = torch.minimum(alpha, torch.lerp(torch.ones_like(own), own, unsure))[:, None]
        left_over = pixels - share * inside - (1 - share) * outside
        return torch.where(share < 1, inside + share * left_over, pixels).clamp_(0, 1), share[:, 0]


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
