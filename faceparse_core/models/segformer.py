"""SegFormer: Mix Transformer encoders B0 to B5 with the all-MLP head (Xie et al. 2021).

The function is that of ``transformers.SegformerForSemanticSegmentation``; the way there differs in two points.

* Tokens are kept as [B, H, W, C] from the first convolution to the last norm. Linear layers and layer norms work on
  that as it is, and the depthwise and the reducing convolutions read the same memory as a channels-last image, so
  nothing is copied between the two layouts.
* In the head, every step before the ReLU is linear and acts on each pixel alone, and bilinear upsampling commutes with
  such steps. So the 1x1 convolution that fuses the four stages is applied to each stage at the stage's own resolution,
  and only the sum is formed at a quarter of the image's size: the same function for a fifth of the work. Training
  multiplies these matrices anew in each step; ``SegFormer.fold`` does so once and for all, batch norm included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceparse_core.models import packed
from faceparse_core.models.packed import PackedConv2d, PackedLinear

_STRIDES = (4, 2, 2, 2)
_PATCH_SIZES = (7, 3, 3, 3)
_STAGES = len(_STRIDES)
# transformers builds every norm with torch's default, whatever "layer_norm_eps" in a published config says.
_EPS = 1e-5
_COLUMNS = 16  # of the head, at a time, on a processor


@dataclass(frozen=True)
class SegFormerConfig:
    """The shape of a SegFormer; the tuples hold one value for each of the four stages, from fine to coarse.

    ``sr_ratios`` are the factors by which attention shrinks keys and values in each direction. The last four fields
    act in training only. Raises ValueError for values that make no network.
    """

    depths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    decoder_width: int
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    num_labels: int = 19
    drop_path: float = 0.1
    classifier_dropout: float = 0.1
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self):
        for name in ("depths", "hidden_sizes", "num_heads", "sr_ratios", "mlp_ratios"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or len(values) != _STAGES or not all(map(_is_count, values)):
                raise ValueError(f"SegFormer: {name} must be four whole numbers from 1 up, got {values!r}.")
            object.__setattr__(self, name, tuple(values))
        for name in ("decoder_width", "num_labels"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"SegFormer: {name} must be a whole number from 1 up, got {getattr(self, name)!r}.")
        for name in ("drop_path", "classifier_dropout", "hidden_dropout", "attention_dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"SegFormer: {name} must be a number from 0 to below 1, got {value!r}.")
        if any(size % heads for size, heads in zip(self.hidden_sizes, self.num_heads, strict=True)):
            raise ValueError(
                f"SegFormer: hidden_sizes {self.hidden_sizes} must be multiples of num_heads {self.num_heads}."
            )
        # An image of side 32 n has stages of side 8n, 4n, 2n, n; the factor that shrinks them must divide them.
        if any((8 >> stage) % ratio for stage, ratio in enumerate(self.sr_ratios)):
            raise ValueError(f"SegFormer: sr_ratios must divide 8, 4, 2 and 1 stage by stage, got {self.sr_ratios}.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegFormerConfig:
        """Reads what transformers writes into config.json. Fields that do not matter here are passed over.

        Raises ValueError for another kind of model, a missing field, or a variant that this network does not compute.
        """
        kind = data.get("model_type", "segformer")
        if kind != "segformer":
            raise ValueError(f"The config describes a model of type {kind!r}, not 'segformer'.")
        missing = [field for field in _REQUIRED if field not in data]
        if missing:
            raise ValueError(f"The SegFormer config lacks {', '.join(missing)}.")
        for field, supported in _FIXED.items():
            value = data.get(field, supported)
            value = list(value) if isinstance(value, tuple) else value
            if value != supported:
                raise ValueError(f"The SegFormer config has {field} = {value!r}; only {supported!r} is supported.")
        given = {ours: data[theirs] for ours, theirs in _FIELDS.items() if theirs in data}
        return cls(num_labels=_label_count(data), **given)

    def to_dict(self) -> dict[str, Any]:
        """The fields of transformers' config.json, ready for json (label names are the caller's to add)."""
        values = {theirs: getattr(self, ours) for ours, theirs in _FIELDS.items()}
        return {
            "model_type": "segformer",
            "architectures": ["SegformerForSemanticSegmentation"],
            **_FIXED,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
            "layer_norm_eps": _EPS,
            "num_labels": self.num_labels,
        }


# Our field -> the field in transformers' config.json.
_FIELDS = {
    "depths": "depths",
    "hidden_sizes": "hidden_sizes",
    "decoder_width": "decoder_hidden_size",
    "num_heads": "num_attention_heads",
    "sr_ratios": "sr_ratios",
    "mlp_ratios": "mlp_ratios",
    "drop_path": "drop_path_rate",
    "classifier_dropout": "classifier_dropout_prob",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_REQUIRED = ("depths", "hidden_sizes", "decoder_hidden_size", "num_attention_heads", "sr_ratios")
# What a config may say but this network computes in one way only.
_FIXED = {
    "num_channels": 3,
    "num_encoder_blocks": _STAGES,
    "patch_sizes": list(_PATCH_SIZES),
    "strides": list(_STRIDES),
    "hidden_act": "gelu",
}


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _label_count(data) -> int:
    """The number of labels: transformers writes their names, others the bare number."""
    names, number = data.get("id2label"), data.get("num_labels")
    if names is None and number is None:
        raise ValueError("The SegFormer config lacks id2label (or num_labels).")
    if names is not None and number is not None and len(names) != number:
        raise ValueError(f"The SegFormer config has {len(names)} names in id2label but num_labels = {number}.")
    return number if names is None else len(names)


SIZES: dict[str, SegFormerConfig] = {
    "b0": SegFormerConfig((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": SegFormerConfig((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": SegFormerConfig((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": SegFormerConfig((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": SegFormerConfig((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": SegFormerConfig((3, 6, 40, 3), (64, 128, 320, 512), 768),
}


class SegFormer(nn.Module):
    """A SegFormer for training as it is built, for inference after ``fold()``.

    ``forward`` takes pixels, float [B, 3, H, W], normalised with the ImageNet mean and std, H and W multiples of 32,
    and gives logits, float [B, num_labels, H/4, W/4]. Pixels are cast to the dtype of the weights. A folded network
    may be moved to half precision: the sums and the classifier of its head stay in float32, and so do the logits.
    """

    def __init__(self, config: SegFormerConfig, *, initialise: bool = True):
        """``initialise=False`` leaves the weights unset, for who loads them next."""
        super().__init__()
        self.config = config
        count = sum(config.depths)
        rates = iter([config.drop_path * block / (count - 1) for block in range(count)])  # deeper ones drop more often
        self.stages = nn.ModuleList(Stage(config, stage, rates) for stage in range(_STAGES))
        self.head: Head | FoldedHead = Head(config)
        if initialise:
            self.apply(_draw_weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        shape = pixels.shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] % 32 or shape[3] % 32 or 0 in shape:
            raise ValueError(f"SegFormer takes pixels [B, 3, H, W], H and W multiples of 32, got {list(shape)}.")
        if not pixels.is_floating_point():
            raise ValueError(f"SegFormer takes normalised floating-point pixels, got {pixels.dtype}.")
        x = pixels.to(self.dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1)
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return self.head(taps)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the encoder computes in."""
        return self.stages[0].embed.norm.weight.dtype

    @property
    def folded(self) -> bool:
        """Whether the network is in its form for inference."""
        return isinstance(self.head, FoldedHead)

    def fold(self) -> SegFormer:
        """Turns the network into its form for inference, in place, and returns it: folded head, keys and values by
        one matrix, eval mode, no gradients. Fold on the CPU, before a cast to half precision. There is no way back:
        keep what is to be trained or saved unfolded."""
        if not self.folded:
            self.head = self.head.fold()
            for block in self._blocks():
                block.attention.fold()
        return self.eval().requires_grad_(False)

    def pack(self) -> SegFormer:
        """Packs the weights of a folded network for this processor (see ``packed``), in place, and returns it.

        Do this last: a packed network cannot be moved, cast or saved. Where ``packed.can_pack`` says no, it stays as
        it is.
        """
        if self.folded and packed.can_pack(self):
            for stage in self.stages:
                stage.embed.conv = PackedConv2d(stage.embed.conv)
            for block in self._blocks():
                block.pack()
        return self

    def _blocks(self):
        return (block for stage in self.stages for block in stage.blocks)

    @classmethod
    def with_weights(cls, config: SegFormerConfig, weights: Mapping[str, Tensor]) -> SegFormer:
        """A network on the CPU in float32, in eval mode, with these weights (our names: see ``from_published``).

        Nothing random is drawn first, which takes longer than loading. Raises ValueError for weights that do not fit.
        """
        network = cls(config, initialise=False)
        network.load_state_dict(weights)
        return network.eval()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As in torch, but weights that do not fit raise ValueError, which names them as the published file does."""
        if strict:
            self.check_fit(state_dict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def check_fit(self, given: Mapping[str, Any]) -> None:
        """Raises ValueError if this network cannot load weights of these names (ours) and shapes."""
        own = self.state_dict()
        # The counter of the batch norm plays no part; files that were converted by hand often lack it.
        missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
        extra = [key for key in given if key not in own]
        other = [key for key in own if key in given and own[key].shape != given[key].shape]
        shapes = [f"{_published(key)} {list(given[key].shape)} instead of {list(own[key].shape)}" for key in other]
        problems = [
            f"{what}: {_some(names)}"
            for what, names in (
                ("missing", [_published(key) for key in missing]),
                ("not part of it", [_published(key) for key in extra]),
                ("of another shape", shapes),
            )
            if names
        ]
        if problems:
            depths, sizes = self.config.depths, self.config.hidden_sizes
            raise ValueError(
                f"These weights do not fit a {'folded ' if self.folded else ''}SegFormer with depths {depths}, "
                f"hidden sizes {sizes}, decoder width {self.config.decoder_width} and {self.config.num_labels} labels. "
                + "; ".join(problems)
                + "."
            )


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
        self.embed = PatchEmbedding(inputs, config.hidden_sizes[stage], _PATCH_SIZES[stage], _STRIDES[stage])
        self.blocks = nn.ModuleList(Block(config, stage, next(drop_rates)) for _ in range(config.depths[stage]))
        self.norm = nn.LayerNorm(config.hidden_sizes[stage], eps=_EPS)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PatchEmbedding(nn.Module):
    def __init__(self, inputs, width, kernel, stride):
        super().__init__()
        self.conv = Conv2d(inputs, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x):
        return self.norm(_convolve(self.conv, x))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and on a residual that training drops at times."""

    def __init__(self, config, stage, drop_rate):
        super().__init__()
        width = config.hidden_sizes[stage]
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attention = Attention(config, stage)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
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
        self.reduce_norm = nn.LayerNorm(width, eps=_EPS) if ratio > 1 else None

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
        self.fuse = Conv2d(_STAGES * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=_EPS)
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
        parts = reversed(self.fuse.weight.to(dtype).flatten(1).chunk(_STAGES, dim=1))
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


def _draw_weights(module):
    """Random weights as the authors of SegFormer draw them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Our module, its name in published files (transformers 4), its name in transformers 5; {} stands for a number.
_PUBLISHED_BLOCK, _NEW_BLOCK = "segformer.encoder.block.{}.{}", "segformer.stages.{}.blocks.{}"
_PUBLISHED_PATCH, _NEW_PATCH = "segformer.encoder.patch_embeddings.{}", "segformer.stages.{}.patch_embeddings"
_NAMES = (
    ("stages.{}.embed.conv", f"{_PUBLISHED_PATCH}.proj", f"{_NEW_PATCH}.proj"),
    ("stages.{}.embed.norm", f"{_PUBLISHED_PATCH}.layer_norm", f"{_NEW_PATCH}.layer_norm"),
    *(
        ("stages.{}.blocks.{}." + ours, f"{_PUBLISHED_BLOCK}.{published}", f"{_NEW_BLOCK}.{new}")
        for ours, published, new in (
            ("norm1", "layer_norm_1", "layernorm_before"),
            ("attention.query", "attention.self.query", "attention.q_proj"),
            ("attention.key", "attention.self.key", "attention.k_proj"),
            ("attention.value", "attention.self.value", "attention.v_proj"),
            ("attention.out", "attention.output.dense", "attention.o_proj"),
            ("attention.reduce", "attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
            ("attention.reduce_norm", "attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
            ("norm2", "layer_norm_2", "layernorm_after"),
            ("mlp.expand", "mlp.dense1", "mlp.fc1"),
            ("mlp.depthwise", "mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
            ("mlp.project", "mlp.dense2", "mlp.fc2"),
        )
    ),
    ("stages.{}.norm", "segformer.encoder.layer_norm.{}", "segformer.stages.{}.layer_norm"),
    ("head.project.{}", "decode_head.linear_c.{}.proj", "decode_head.linear_projections.{}.proj"),
    ("head.fuse", "decode_head.linear_fuse", "decode_head.linear_fuse"),
    ("head.norm", "decode_head.batch_norm", "decode_head.batch_norm"),
    ("head.classifier", "decode_head.classifier", "decode_head.classifier"),
)
_TO_OURS = {theirs: ours for ours, *names in _NAMES for theirs in names}
_TO_PUBLISHED = {ours: published for ours, published, _ in _NAMES}


def from_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names, for ``load_state_dict``.

    Understands the names of published files (transformers 4), which transformers 5 writes too, and those that
    transformers 5 uses in memory. Raises ValueError for names that belong to no SegFormer.
    """
    renamed = {key: _rename(key, _TO_OURS) for key in state_dict}
    foreign = [key for key, ours in renamed.items() if ours is None]
    if foreign:
        raise ValueError(f"These are no weights of a SegFormer with a segmentation head; unknown: {_some(foreign)}.")
    result = {ours: state_dict[key] for key, ours in renamed.items()}
    if len(result) < len(renamed):
        double = [key for key, ours in renamed.items() if _published(ours) != key and _published(ours) in renamed]
        raise ValueError(f"These weights are given twice, under old and new names: {_some(double)}.")
    return result


def to_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a SegFormer under the names of published files; every tensor contiguous, as safetensors wants.

    Raises ValueError for that of a folded network, whose head no longer has the published parameters.
    """
    renamed = {key: _rename(key, _TO_PUBLISHED) for key in state_dict}
    foreign = [key for key, published in renamed.items() if published is None]
    if foreign:
        raise ValueError(
            f"Only the weights of a SegFormer that is not folded have published names; unknown: {_some(foreign)}."
        )
    return {published: state_dict[key].contiguous() for key, published in renamed.items()}


def config_from_weights(state_dict: Mapping[str, Tensor]) -> SegFormerConfig:
    """The config of a B0 to B5 that comes without one, from its published weights.

    Raises ValueError where they are none of these sizes: the number of attention heads leaves no trace in the weights.
    """
    weights = from_published(state_dict)
    blocks = {tuple(map(int, key.split(".")[1:4:2])) for key in weights if ".blocks." in key}
    depths = tuple(sum(stage == index for stage, _ in blocks) for index in range(_STAGES))
    needed = [f"stages.{stage}.embed.conv.weight" for stage in range(_STAGES)]
    needed += ["head.fuse.weight", "head.classifier.weight"]
    missing = [_published(key) for key in needed if key not in weights]
    if missing:
        raise ValueError(f"The weights of this SegFormer are not complete; missing: {_some(missing)}.")
    *hidden_sizes, decoder_width, num_labels = (len(weights[key]) for key in needed)
    for size in SIZES.values():
        if (size.depths, size.hidden_sizes) == (depths, tuple(hidden_sizes)):
            return replace(size, decoder_width=decoder_width, num_labels=num_labels)
    raise ValueError(
        f"Depths {depths} with hidden sizes {tuple(hidden_sizes)} are none of SegFormer {', '.join(SIZES).upper()}; "
        "such weights need their config.json."
    )


def _rename(key, names):
    """A tensor's key with its module renamed, or None where the module is not in the table."""
    module, _, leaf = key.rpartition(".")
    parts = module.split(".")
    numbers = [part for part in parts if part.isdecimal()]
    name = names.get(".".join("{}" if part.isdecimal() else part for part in parts))
    return None if name is None else f"{name.format(*numbers)}.{leaf}"


def _published(key):
    return _rename(key, _TO_PUBLISHED) or key


def _some(names, limit=4):
    """The first of many names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
