"""The network that finds faces: one map of centres for a whole picture, with a box and five marks at each.

It is a small pyramid in the manner of CenterNet (Zhou et al. 2019) and YuNet (Wu et al. 2023). A few thin layers bring
the picture to a quarter of its size; two stages as in ``lite`` (and, before training, with its weights) and one coarser
one look at it; a feature pyramid brings them together at an eighth of the picture's size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from faceparse_core.models.lite import ConvNorm, InvertedResidual, Smooth, fold, pack
from faceparse_core.models.packed import PackedConv2d

STRIDE = 8
"""Pixels to a cell of the map."""

MARKS = 5
"""The eye at the left of an upright face, the other, the tip of the nose, the corners of the mouth, left and right."""

# (expansion, kernel, stride, channels, repeats): the second and third are the third and fourth of EfficientNet-Lite0.
_EARLY = ((2, 3, 2, 24, 1), (2, 3, 1, 24, 1))
_STAGES = (
    (3, 5, 2, 40, 2),
    (3, 3, 2, 80, 3),
    (3, 5, 2, 96, 2),
)
_STEM_CHANNELS, _WIDTH = 16, 64


class FinderNetwork(nn.Module):
    """``forward`` takes pixels, float [B, 3, H, W], normalised with the ImageNet mean and std, H and W multiples of 32.

    It gives, for each cell of H/8 x W/8, in the dtype of the weights, [B, 15, H/8, W/8]: how likely a face's centre is
    there (a logit); the centre from the middle of the cell, x and y, in sizes of the face, which is the root of its
    box's width times height; the logarithms of the box's width and height in cells; the five ``MARKS``, x and y each,
    from the middle of the cell in sizes of the face.
    """

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, _STEM_CHANNELS, kernel=3, stride=2)
        channels = _STEM_CHANNELS
        stages = []
        for expansion, kernel, stride, out, repeats in (*_EARLY, *_STAGES):
            blocks = [InvertedResidual(channels, out, expansion, kernel, stride)]
            blocks += [InvertedResidual(out, out, expansion, kernel, 1) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        self.early = nn.Sequential(*stages[: len(_EARLY)])
        self.stages = nn.ModuleList(stages[len(_EARLY) :])
        self.lateral = nn.ModuleList(ConvNorm(stage[3], _WIDTH, kernel=1, activation=False) for stage in _STAGES)
        self.smooth = nn.ModuleList(Smooth(_WIDTH) for _ in _STAGES)
        self.head = nn.Sequential(Smooth(_WIDTH), Smooth(_WIDTH))
        self.output = nn.Conv2d(_WIDTH, 1 + 2 + 2 + 2 * MARKS, 1)
        nn.init.zeros_(self.output.bias)
        nn.init.constant_(self.output.bias[:1], -4.0)  # almost nowhere is a face

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.early(self.stem(pixels))
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        y = None
        for tap, lateral, smooth in zip(reversed(taps), reversed(self.lateral), reversed(self.smooth), strict=True):
            merged = lateral(tap)
            if y is not None:
                merged = merged + F.interpolate(y, size=merged.shape[-2:], mode="bilinear", align_corners=False)
            y = smooth(merged)
        return self.output(self.head(y))

    def fold(self) -> FinderNetwork:
        """The same function for inference, in place, as ``Lite.fold``. Returns itself."""
        return fold(self)

    def pack(self) -> FinderNetwork:
        """Packs the weights of a folded network for this processor, in place, as ``Lite.pack``. Returns itself."""
        if pack(self):
            self.output = PackedConv2d(self.output)
        return self
