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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from faceparse_core.devices import placed
from faceparse_core.models import packed
from faceparse_core.models.packed import PackedConv2d
from faceparse_core.models.segformer_layers import (
    EPS,
    PATCH_SIZES,
    STAGES,
    STRIDES,
    Block,
    FoldedHead,
    Head,
    Stage,
    draw_weights,
)
from faceparse_core.models.segformer_names import from_published, published, some


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
            if not isinstance(values, Sequence) or len(values) != STAGES or not all(map(_is_count, values)):
                raise ValueError(f"SegFormer: {name} must be four whole numbers from 1 up, got {values!r}.")
            object.__setattr__(self, name, tuple(values))
        if max(self.depths) > _MOST_LAYERS:
            raise ValueError(f"SegFormer: depths may be {_MOST_LAYERS} at most, got {self.depths!r}.")
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
            "layer_norm_eps": EPS,
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
_MOST_LAYERS = 1000  # of a stage: what says more is no network
_FIXED = {
    "num_channels": 3,
    "num_encoder_blocks": STAGES,
    "patch_sizes": list(PATCH_SIZES),
    "strides": list(STRIDES),
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
        self.stages = nn.ModuleList(Stage(config, stage, rates) for stage in range(STAGES))
        self.head: Head | FoldedHead = Head(config)
        if initialise:
            self.apply(draw_weights)
        placed(self)

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
        return self._stages()[0].embed.norm.weight.dtype

    @property
    def folded(self) -> bool:
        """Whether the network is in its form for inference."""
        return isinstance(self.head, FoldedHead)

    def fold(self) -> SegFormer:
        """Turns the network into its form for inference, in place, and returns it: folded head, keys and values by
        one matrix, eval mode, no gradients. Fold on the CPU, before a cast to half precision. There is no way back:
        keep what is to be trained or saved unfolded."""
        if isinstance(self.head, Head):
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
            for stage in self._stages():
                stage.embed.conv = PackedConv2d(stage.embed.conv)
            for block in self._blocks():
                block.pack()
        return self

    def _stages(self) -> list[Stage]:
        return [cast(Stage, stage) for stage in self.stages]

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for stage in self.stages for block in cast(Stage, stage).blocks)

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
        shapes = [f"{published(key)} {list(given[key].shape)} instead of {list(own[key].shape)}" for key in other]
        problems = [
            f"{what}: {some(names)}"
            for what, names in (
                ("missing", [published(key) for key in missing]),
                ("not part of it", [published(key) for key in extra]),
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


def config_from_weights(state_dict: Mapping[str, Tensor]) -> SegFormerConfig:
    """The config of a B0 to B5 that comes without one, from its published weights.

    Raises ValueError where they are none of these sizes: the number of attention heads leaves no trace in the weights.
    """
    weights = from_published(state_dict)
    blocks = {tuple(map(int, key.split(".")[1:4:2])) for key in weights if ".blocks." in key}
    depths = tuple(sum(stage == index for stage, _ in blocks) for index in range(STAGES))
    needed = [f"stages.{stage}.embed.conv.weight" for stage in range(STAGES)]
    needed += ["head.fuse.weight", "head.classifier.weight"]
    missing = [published(key) for key in needed if key not in weights]
    if missing:
        raise ValueError(f"The weights of this SegFormer are not complete; missing: {some(missing)}.")
    *hidden_sizes, decoder_width, num_labels = (len(weights[key]) for key in needed)
    for size in SIZES.values():
        if (size.depths, size.hidden_sizes) == (depths, tuple(hidden_sizes)):
            return replace(size, decoder_width=decoder_width, num_labels=num_labels)
    raise ValueError(
        f"Depths {depths} with hidden sizes {tuple(hidden_sizes)} are none of SegFormer {', '.join(SIZES).upper()}; "
        "such weights need their config.json."
    )
