"""The skin of a face on a coarse grid: its colours, where it is bare, and changes that are laid on softly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from faceparse_core.edits.colours import to_oklab, to_srgb
from faceparse_core.edits.sitter import Sitter
from faceparse_core.masks.reduced import averaged, box_mean, enlarged, tiles
from faceparse_core.rendering import spread

# What is darker than the skin by the second is none (nostrils, lashes, hair over it, a beard), up to the first it is;
# against the whole face, where one side may lie in the shade, and against what is around.
_SHADE, _SPECK = (0.18, 0.32), (0.09, 0.16)
# What is around, and how far from its rim a change of the skin is complete, in units.
_AROUND, _RIM = 0.45, 0.06


@dataclass(frozen=True)
class Complexion:
    """``colours``: OKLab of the cells, float32 [1, 3, h, w]; ``bare``: which share of each is bare skin [1, 1, h, w];
    ``tone``: the median colour of it [3]."""

    sitter: Sitter
    factor: int
    colours: Tensor
    bare: Tensor
    tone: Tensor

    def cells(self, units: float) -> int:
        """So many units, in cells, at least one."""
        return max(1, round(units * self.sitter.unit / self.factor))

    def around(self, values: Tensor, units: float) -> Tensor:
        """The mean of values [1, C, h, w] over bare skin so far to each side."""
        reach = self.cells(units)
        share = box_mean(self.bare, reach)
        whole = (values * self.bare).sum((2, 3), keepdim=True) / self.bare.sum().clamp(min=1e-6)
        return (box_mean(values * self.bare, reach) + 1e-3 * whole) / (share + 1e-3)

    @cached_property
    def within(self) -> Tensor:
        """How far inside of bare skin a cell is: 0 at the rim, 1 from a twentieth of the face on: [1, 1, h, w]."""
        reach = self.cells(_RIM)
        return (box_mean(box_mean(self.bare, reach), max(1, reach // 2)) * 2 - 1).clamp_(0, 1) * self.bare

    def lay(self, shift: Tensor) -> None:
        """Adds a change, OKLab [1, 3, h, w], to the colours of the picture where it is skin."""
        sitter = self.sitter

        def change(tile: tuple[slice, slice]) -> None:
            move = enlarged(shift, self.factor, *tile)[0]
            # Where nothing is to change, what conversion there and back makes of a colour is not let in.
            moved = move[0].logical_or(move[1]).logical_or_(move[2])
            inside = sitter.shows("skin + nose", tile).logical_and_(moved)
            there = sitter.pixels[tile]
            before = there.permute(2, 0, 1).contiguous()
            after = to_srgb(to_oklab(before.flatten(1).T).add_(move.flatten(1).T)).T.view(before.shape)
            there.copy_(torch.lerp(before, after, inside.float()).permute(1, 2, 0))

        spread(change, tiles((shift[0] != 0).any(0), self.factor, sitter.labels.shape))


def complexion(sitter: Sitter, finest: float) -> Complexion | None:
    """The skin of a face in cells of so many units; None where none is seen."""
    factor = max(1, math.floor(finest * sitter.unit))
    label = averaged(sitter.shows("skin + nose").float()[..., None], factor)[None, None, ..., 0]
    small = averaged(sitter.pixels, factor)
    colours = to_oklab(small.reshape(-1, 3)).view(small.shape).permute(2, 0, 1)[None].contiguous()
    inside = label[0, 0] > 0.9
    if not inside.any():
        return None
    tone = colours[0, :, inside].median(1).values
    light = colours[:, :1]
    found = Complexion(sitter, factor, colours, label * _not_darker(light, tone[0], _SHADE), tone)
    bare = found.bare * _not_darker(light, found.around(light, _AROUND), _SPECK)
    return Complexion(sitter, factor, colours, bare, tone)


def _not_darker(light: Tensor, than: Tensor, bounds: tuple[float, float]) -> Tensor:
    least, most = bounds
    return 1 - ((than - light - least) / (most - least)).clamp(0, 1)
