"""The names of a SegFormer's tensors: ours, those of published files (transformers 4), those of transformers 5."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

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
        raise ValueError(f"These are no weights of a SegFormer with a segmentation head; unknown: {some(foreign)}.")
    result = {ours: state_dict[key] for key, ours in renamed.items()}
    if len(result) < len(renamed):
        double = [key for key, ours in renamed.items() if published(ours) != key and published(ours) in renamed]
        raise ValueError(f"These weights are given twice, under old and new names: {some(double)}.")
    return result


def to_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a SegFormer under the names of published files; every tensor contiguous, as safetensors wants.

    Raises ValueError for that of a folded network, whose head no longer has the published parameters.
    """
    renamed = {key: _rename(key, _TO_PUBLISHED) for key in state_dict}
    foreign = [key for key, published in renamed.items() if published is None]
    if foreign:
        raise ValueError(
            f"Only the weights of a SegFormer that is not folded have published names; unknown: {some(foreign)}."
        )
    return {published: state_dict[key].contiguous() for key, published in renamed.items()}


def _rename(key, names):
    """A tensor's key with its module renamed, or None where the module is not in the table."""
    module, _, leaf = key.rpartition(".")
    parts = module.split(".")
    numbers = [part for part in parts if part.isdecimal()]
    name = names.get(".".join("{}" if part.isdecimal() else part for part in parts))
    return None if name is None else f"{name.format(*numbers)}.{leaf}"


def published(key):
    return _rename(key, _TO_PUBLISHED) or key


def some(names, limit=4):
    """The first of many names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
