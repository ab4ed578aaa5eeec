"""The network that finds faces: one map of centres for a whole picture, with a box and five marks at each.

It is a small pyramid in the manner of CenterNet (Zhou et al. 2019) and YuNet (Wu et al. 2023) on the first half of
``lite``, whose weights it begins with: they know the parts of faces. A coarser stage looks at large ones; a feature
pyramid brings them together at an eighth of the picture's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceparse_core.models.lite import ConvNorm, InvertedResidual, Lite, Smooth, fold, pack, top_down
from faceparse_core.models.packed import PackedConv2d

STRIDE = 8
"""Pixels to a cell of the map."""

MARKS = 5
"""The eye at the left of an upright face, the other, the tip of the nose, the corners of the mouth, left and right."""

# (expansion, kernel, stride, channels, repeats) beyond the stages that are lite's; how many these are, and the channels
# of those at strides 8 and 16.
_COARSE = (3, 5, 2, 96, 2)
_BODY, _TAPS = 4, (40, 80)
# The first of them, which are quick and whose errors all others would build upon, are computed as exactly as the end.
_EXACT = 2
_WIDTH = 64
# What the layers up to a quarter of the size make of a large picture is far larger than a processor's caches: there
# they see so many pixels at a time, whole rows of them, and as many rows above and below as their results depend on.
_QUARTER, _BAND, _ABOVE, _BELOW = 4, 1 << 16, 8, 2


class FinderNetwork(nn.Module):
    """``forward`` takes pixels, float [B, 3, H, W], normalised with the ImageNet mean and std, H and W multiples of 32.

    It gives, for each cell of H/8 x W/8, in the dtype of the last layer's weights, [B, 15, H/8, W/8]: how likely a
    face's centre is there (a logit); the centre from the middle of the cell, x and y, in sizes of the face, which is
    the root of its box's width times height; the logarithms of the box's width and height in cells; the five ``MARKS``,
    x and y each, from the middle of the cell in sizes of the face.
    """

    def __init__(self):
        super().__init__()
        self.narrowed: torch.dtype | None = None
        lite = Lite()
        self.body = nn.Sequential(lite.stem, *lite.stages[:_BODY])
        expansion, kernel, stride, out, repeats = _COARSE
        blocks = [InvertedResidual(_TAPS[-1], out, expansion, kernel, stride)]
        blocks += [InvertedResidual(out, out, expansion, kernel, 1) for _ in range(repeats - 1)]
        self.coarse = nn.Sequential(*blocks)
        channels = (*_TAPS, out)
        self.lateral = nn.ModuleList(ConvNorm(c, _WIDTH, kernel=1, activation=False) for c in channels)
        self.smooth = nn.ModuleList(Smooth(_WIDTH) for _ in channels)
        self.head = nn.Sequential(Smooth(_WIDTH), Smooth(_WIDTH))
        self.output = nn.Conv2d(_WIDTH, 1 + 2 + 2 + 2 * MARKS, 1)
        nn.init.zeros_(self.output.bias)
        nn.init.constant_(self.output.bias[:1], -4.0)  # almost nowhere is a face

    def forward(self, pixels: Tensor) -> Tensor:
        return self.said(*self.seen(pixels))

    def seen(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the body sees, [B, 40, H/8, W/8] and [B, 80, H/16, W/16]."""
        x = self._quarter(pixels)
        eighth = self.body[_EXACT + 1 : -1](self.body[_EXACT][1:](x))
        return eighth, self.body[-1](eighth)

    def _quarter(self, pixels: Tensor) -> Tensor:
        """The first layers, up to that which brings the picture to a quarter of its size; of large pictures band by
        band, which gives the same in half to two thirds of the time."""
        height, width = pixels.shape[2:]
        rows = max(_QUARTER, _BAND // width // _QUARTER * _QUARTER)
        # In training a norm is of the whole batch; a GPU has no use for small steps.
        if height <= rows or self.training or pixels.device.type != "cpu":
            return self._begun(pixels)
        pictures = []
        for picture in pixels.split(1):
            bands = []
            for top in range(0, height, rows):
                above = min(_ABOVE, top)
                seen = self._begun(picture[:, :, top - above : top + rows + _BELOW])
                bands.append(seen[:, :, above // _QUARTER : (above + rows) // _QUARTER])
            pictures.append(torch.cat(bands, 2))
        return torch.cat(pictures)

    def _begun(self, pixels: Tensor) -> Tensor:
        first = self.body[:_EXACT](pixels)
        return self.body[_EXACT][0](first if self.narrowed is None else first.to(self.narrowed))

    def said(self, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        """What is made of it."""
        if self.narrowed is not None:
            eighth, sixteenth = eighth.to(self.output.bias.dtype), sixteenth.to(self.output.bias.dtype)
        taps = (eighth, sixteenth, self.coarse(sixteenth))
        return self.output(self.head(top_down(taps, self.lateral, self.smooth)))

    def take_body(self, lite: Lite) -> None:
        """Take over the body of a Lite."""
        self.body.load_state_dict(nn.Sequential(lite.stem, *lite.stages[:_BODY]).state_dict())

    def narrow(self, dtype: torch.dtype) -> FinderNetwork:
        """For inference, in place: nearly all the work in ``dtype``, of fewer bits; the first layers and the last stay
        as they are, or boxes would be pixels off. Returns itself."""
        self.body[_EXACT:].to(dtype)
        self.narrowed = dtype
        return self

    def fold(self) -> FinderNetwork:
        """The same function for inference, in place, as ``Lite.fold``. Returns itself."""
        return fold(self)

    def pack(self) -> FinderNetwork:
        """Packs the weights of a folded network for this processor, in place, as ``Lite.pack``. Returns itself."""
        if pack(self):
            self.output = PackedConv2d(self.output)
        return self
