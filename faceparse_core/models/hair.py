"""The network that corrects the outline of a mask of hair.

A parser sees a face at a quarter of its input's size and draws the outline of hair a few pixels off. This one sees the
picture together with the parser's mask, and says how far each pixel's odds of being hair are to be changed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceparse_core.models.lite import ConvNorm, Lite, fold, pack
from faceparse_core.models.packed import PackedConv2d

# A mask's odds are taken to be no surer than this (in logits), so that a hard mask can be corrected too.
SUREST = 4.0


class HairOutline(nn.Module):
    """Lite with a mask as a fourth channel and one step finer.

    ``forward`` takes pixels, float [B, 3, H, W], normalised with the ImageNet mean and std, and a mask [B, 1, H, W] in
    0..1, H and W multiples of 32. It gives what is to be added to the mask's logits, [B, 1, H, W].
    """

    def __init__(self):
        super().__init__()
        self.body = Lite()
        self.body.stem = ConvNorm(4, 32, kernel=3, stride=2)
        self.body.classifier = nn.Identity()
        self.narrow = ConvNorm(self.body.config.width, 32, kernel=1)
        self.fine = ConvNorm(32 + 16 + 4, 32, kernel=3)
        self.correction = nn.Conv2d(32, 1, 1)

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        picture = torch.cat([pixels, mask], 1)
        half, quarter = self.body.features(picture)
        y = F.interpolate(self.narrow(quarter), size=half.shape[-2:], mode="bilinear", align_corners=False)
        y = self.correction(self.fine(torch.cat([y, half, F.avg_pool2d(picture, 2)], 1)))
        return F.interpolate(y, size=pixels.shape[-2:], mode="bilinear", align_corners=False)

    def fold(self) -> HairOutline:
        """The same function for inference, in place, as ``Lite.fold``. Returns itself."""
        return fold(self)

    def pack(self) -> HairOutline:
        """Packs the weights of a folded network for this processor, in place, as ``Lite.pack``. Returns itself."""
        if pack(self):
            self.correction = PackedConv2d(self.correction)
        return self


def odds(mask: Tensor) -> Tensor:
    """The logits of a mask in 0..1, from -``SUREST`` to ``SUREST``, as the network takes them to be."""
    return mask.logit(1e-6).clamp_(-SUREST, SUREST)


def start_from(lite: Lite) -> HairOutline:
    """A network to train: sees what ``lite`` sees but for its blocks, knows no mask yet, and changes nothing."""
    network = HairOutline()
    other = ("classifier", "blocks")
    weights = {f"body.{key}": value for key, value in lite.state_dict().items() if not key.startswith(other)}
    stem = weights["body.stem.conv.weight"]
    weights["body.stem.conv.weight"] = torch.cat([stem, torch.zeros_like(stem[:, :1])], dim=1)
    network.load_state_dict(network.state_dict() | weights)
    nn.init.zeros_(network.correction.weight)
    nn.init.zeros_(network.correction.bias)
    return network
