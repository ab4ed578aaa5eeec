"""The layers of SegFormer: stages of the encoder, attention, the two forms of the head. See ``segformer``."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from faceparse_core.models.packed import PackedConv2d, PackedLinear

STRIDES = (4, 2, 2, 2)
PATCH_SIZES = (7, 3, 3, 3)
STAGES = len(STRIDES)
# transformers builds every norm with torch's default, whatever "layer_norm_eps" in a published config says.
EPS = 1e-5
_COLUMNS = 16  # of the head, at a time, on a processor


class Linear(nn.Linear):
    """Leaves its weights unset: they are loaded or drawn once, where torch would always draw them first."""

    def reset_parameters(self):
        pass


class Conv2d(nn.Conv2d):
    """Leaves its weights unset, as Linear here."""

    def reset_parameters(self):
        pass


class Stage(nn.Module):
    """One resolution of the encoder: overlapping patches, transformer blocks, a norm. [B, H, W, C] in and out."""

    def __init__(self, config, stage, drop_rates):
        super().__init__()
        inputs = config.hidden_sizes[stage - 1] if stage else 3
        self.embed = PatchEmbedding(inputs, config.hidden_sizes[stage], PATCH_SIZES[stage], STRIDES[stage])
        self.blocks = nn.ModuleList(Block(config, stage, next(drop_rates)) for _ in range(config.depths[stage]))
        self.norm = nn.LayerNorm(config.hidden_sizes[stage], eps=EPS)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PatchEmbedding(nn.Module):
    def __init__(self, inputs, width, kernel, stride):
        super().__init__()
        self.conv = Conv2d(inputs, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x):
        return self.norm(_convolve(self.conv, x))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and on a residual that training drops at times."""

    def __init__(self, config, stage, drop_rate):
        super().__init__()
        width = config.hidden_sizes[stage]
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(config, stage)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MixMLP(width, width * config.mlp_ratios[stage], config.hidden_dropout)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_rate = drop_rate

    def forward(self, x):
        x = self._drop_path(self.dropout(self.attention(self.norm1(x)))).add_(x)
        return self._drop_path(self.mlp(self.norm2(x))).add_(x)

    def pack(self):
        attention, mlp = self.attention, self.mlp
        for name in ("query", "key_value", "out"):
            setattr(attention, name, PackedLinear(getattr(attention, name)))
        if attention.reduce is not None:
            attention.reduce = PackedConv2d(attention.reduce)
        mlp.expand, mlp.project = PackedLinear(mlp.expand), PackedLinear(mlp.project)
        mlp.depthwise, mlp.activation = PackedConv2d(mlp.depthwise, "gelu"), nn.Identity()

    def _drop_path(self, x):
        """Stochastic depth (Huang et al. 2016): leaves the branch out for some of the images, while training."""
        if not self.training or not self.drop_rate:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_rate
        return x * (kept.to(x.dtype) / (1 - self.drop_rate))


class Attention(nn.Module):
    """Self-attention whose keys and values come from a shrunken copy of the map (Wang et al. 2021, PVT)."""

    def __init__(self, config, stage):
        super().__init__()
        width, ratio = config.hidden_sizes[stage], config.sr_ratios[stage]
        self.heads = config.num_heads[stage]
        self.dropout = config.attention_dropout
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.key_value: Linear | None = None  # both, once the network is folded
        self.out = Linear(width, width)
        self.reduce = Conv2d(width, width, ratio, ratio) if ratio > 1 else None
        self.reduce_norm = nn.LayerNorm(width, eps=EPS) if ratio > 1 else None

    def forward(self, x):
        source = x if self.reduce is None else self.reduce_norm(_convolve(self.reduce, x))
        if self.key_value is None:
            key, value = self.key(source), self.value(source)
        else:
            key, value = self.key_value(source).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x)),
            self._split(key),
            self._split(value),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).reshape(x.shape))

    def fold(self):
        """Makes one matrix of those of the keys and the values."""
        width = self.key.in_features
        self.key_value = Linear(width, 2 * width).to(self.key.weight)
        with torch.no_grad():
            self.key_value.weight.copy_(torch.cat([self.key.weight, self.value.weight]))
            self.key_value.bias.copy_(torch.cat([self.key.bias, self.value.bias]))
        self.key = self.value = None

    def _split(self, x):
        """[B, H, W, C] -> [B, heads, H*W, C/heads], a view."""
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MixMLP(nn.Module):
    """The feed-forward network; its depthwise convolution stands in for a position embedding."""

    def __init__(self, width, hidden, dropout):
        super().__init__()
        self.expand = Linear(width, hidden)
        self.depthwise = Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.project = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = self.activation(_convolve(self.depthwise, self.expand(x)))
        return self.dropout(self.project(self.dropout(x)))


class Head(nn.Module):
    """The all-MLP head with the published parameters, for training."""

    def __init__(self, config):
        super().__init__()
        width = config.decoder_width
        self.project = nn.ModuleList(Linear(size, width) for size in config.hidden_sizes)
        self.fuse = Conv2d(STAGES * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=EPS)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = Conv2d(width, config.num_labels, 1)

    def forward(self, taps):
        maps = [F.linear(x, weight, bias) for x, (weight, bias) in zip(taps, self._products(), strict=True)]
        x = _sum_upsampled(maps).permute(0, 3, 1, 2)
        x = self.norm(x.to(self.norm.weight.dtype))
        return self.classifier(self.dropout(F.relu(x))).contiguous()

    def fold(self) -> FoldedHead:
        """The same head for inference, computed in float64: the products scaled by the batch norm, one shift."""
        scale = self.norm.weight.double() / (self.norm.running_var.double() + self.norm.eps).sqrt()
        shift = self.norm.bias.double() - scale * self.norm.running_mean.double()
        weights = []
        for weight, bias in self._products(torch.float64):
            weights.append(scale[:, None] * weight)
            shift = shift + scale * bias
        return FoldedHead(weights, shift, self.classifier)

    def _products(self, dtype=None):
        """For each stage the weight [width, C] and bias [width] of its projection followed by its part of the fusion.

        The fusion sees the stages concatenated from coarse to fine.
        """
        dtype = dtype or self.fuse.weight.dtype
        parts = reversed(self.fuse.weight.to(dtype).flatten(1).chunk(STAGES, dim=1))
        return [
            (part @ project.weight.to(dtype), part @ project.bias.to(dtype))
            for part, project in zip(parts, self.project, strict=True)
        ]


class FoldedHead(nn.Module):
    """The head for inference: one matrix for each stage, the sum of their maps, ReLU, classifier.

    weights: four of [width, C]; shift: [width]; classifier: the 1x1 convolution of the head that is folded, whose
    dtype and device the new head takes on.
    """

    def __init__(self, weights, shift, classifier):
        super().__init__()
        weight, bias = classifier.weight.detach().flatten(1), classifier.bias.detach()
        self.merged = nn.ParameterList(matrix.detach().to(weight) for matrix in weights)
        self.classify = Classifier(shift.detach(), weight, bias)

    def forward(self, taps):
        maps = [F.linear(x, weight) for x, weight in zip(taps, self.merged, strict=True)]
        # A shift stays what it is when upsampled; the coarsest map has the fewest pixels to add it to.
        maps[-1] = maps[-1] + self.classify.shift.to(maps[-1].dtype)
        if maps[0].device.type == "cpu" and not torch.onnx.is_in_onnx_export():
            return self._in_columns(maps)
        return self.classify(F.relu_(_sum_upsampled(maps))).permute(0, 3, 1, 2).contiguous()

    def _in_columns(self, maps):
        """The same by matrix products, which processors are best at, some columns after the other, which stay in cache.

        Bilinear upsampling is a product with one matrix for the rows and one for the columns. Those for the rows of
        all three coarse maps side by side sum the maps in the same product, in float32 whatever the maps are in.
        """
        finest, *coarse = maps
        batch, height, width, channels = finest.shape
        by_columns = [_upsampling(width, x.shape[2], finest) for x in coarse]
        by_rows = torch.cat([_upsampling(height, x.shape[1], finest) for x in coarse], dim=1)
        ends = list(accumulate(x.shape[1] for x in coarse))
        wide = finest.new_empty(ends[-1], width, channels)
        logits = finest.new_empty(batch, len(self.classify.bias), height, width, dtype=self.classify.bias.dtype)
        for image in range(batch):
            for x, matrix, end in zip(coarse, by_columns, ends, strict=True):
                torch.matmul(matrix, x[image], out=wide[end - x.shape[1] : end])
            for left in range(0, width, _COLUMNS):
                columns = slice(left, left + _COLUMNS)
                total = torch.addmm(finest[image, :, columns].flatten(1), by_rows, wide[:, columns].flatten(1))
                total = _float32_or_wider(total.relu_().unflatten(1, (-1, channels)))
                logits[image, :, :, columns] = self.classify(total).permute(2, 0, 1)
        return logits


class Classifier(nn.Module):
    """What stays in float32 when the network is cast to half precision: roundings here move borders between labels."""

    def __init__(self, shift, weight, bias):
        super().__init__()
        weight = _float32_or_wider(weight)
        self.shift = nn.Parameter(shift.to(weight))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias.to(weight))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    def _apply(self, fn, recurse=True):
        # Every .to(), .half(), .cuda() … of the network passes here: follow it to the device, not to half precision.
        def follow(tensor):
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(follow, recurse)


def _convolve(conv, x):
    """A convolution of tokens [B, H, W, C]; as an image their memory is channels-last, so neither view is a copy."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _sum_upsampled(maps):
    """Sums maps [B, H/2^i, W/2^i, C], each upsampled straight to the first one's size, in float32 (or wider).

    Each is upsampled in one step: doing it from stage to stage would be another function.
    """
    finest = maps[0]
    total = None
    for coarse in reversed(maps[1:]):
        coarse = _float32_or_wider(coarse).permute(0, 3, 1, 2)
        fine = F.interpolate(coarse, size=finest.shape[1:3], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        total = fine if total is None else total.add_(fine)
    return total.add_(finest)


def _upsampling(fine, coarse, like):
    """The matrix [fine, coarse] that upsamples as F.interpolate does; exact in bfloat16 for the factors 2, 4 and 8."""
    unit = torch.eye(coarse, dtype=torch.float32, device=like.device)[None]
    return F.interpolate(unit, size=fine, mode="linear", align_corners=False)[0].T.to(like.dtype)


def _float32_or_wider(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def draw_weights(module):
    """Random weights as the authors of SegFormer draw them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
