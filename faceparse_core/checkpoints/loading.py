"""Reading files into networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from faceparse_core.checkpoints.foreign import load_foreign
from faceparse_core.checkpoints.reading import (
    COUNTER,
    Contents,
    architecture_of,
    config_labels,
    json_of,
    metadata_labels,
    onnx_contents,
    order_of,
    read_contents,
    read_tensors,
)
from faceparse_core.checkpoints.table import Checkpoint
from faceparse_core.errors import CheckpointError
from faceparse_core.labels import NUM_LABELS
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.onnx import OnnxModel
from faceparse_core.models.segformer import SegFormer, SegFormerConfig, config_from_weights
from faceparse_core.models.segformer_names import from_published


def load(checkpoint: Checkpoint, *, trainable: bool = False) -> nn.Module:
    """The network of a checkpoint, with its weights: float32, on the CPU, in eval mode.

    ``forward`` takes pixels [B, 3, H, W] normalised with the checkpoint's ``mean`` and ``std`` and gives logits
    [B, 19, h, w] in the order of ``labels.LABELS``, whatever the order in the file. Lite and SegFormer come folded for
    inference unless ``trainable``; only a trainable network has gradients.

    An ONNX file becomes a network of the same signature that onnxruntime runs; it cannot be trained (ValueError).

    Raises CheckpointError for weights that are damaged, contradict their config, or have other labels.
    """
    if checkpoint.architecture == "onnx":
        if trainable:
            raise ValueError(f"{checkpoint.path} cannot be trained or exported: take the weights that it was made from")
        return _load_onnx(checkpoint.path)
    contents = read_contents(checkpoint.path)
    if architecture_of(contents) != checkpoint.architecture:
        raise CheckpointError(f"{checkpoint.path} no longer is a {checkpoint.architecture} checkpoint: it was replaced")
    build = {"lite": _load_lite, "segformer": _load_segformer, "transformers": load_foreign}
    network = build[checkpoint.architecture](contents)
    for key, tensor in network.state_dict().items():
        # A sum shows every NaN and infinity and, unlike isfinite, needs no second copy of the weights.
        if tensor.is_floating_point() and not tensor.sum().isfinite():
            raise CheckpointError(f"{contents.weights} is damaged: {key} holds NaN or infinite values")
    if trainable:
        # Nothing stays mapped to the file: what is trained stays long, and may be saved over where it comes from.
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()
    elif isinstance(network, (Lite, SegFormer)):
        network.fold()
    return network.eval().requires_grad_(trainable)


def _load_lite(contents: Contents) -> Lite:
    try:
        config = LiteConfig(**json_of(contents.metadata["config"]))
        if config.num_labels != NUM_LABELS:
            raise ValueError(f"it has {config.num_labels} labels instead of {NUM_LABELS}")
        with torch.device("meta"):
            network = Lite(config)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{contents.weights} holds no lite network that we know: {error}") from error
    own = network.state_dict()
    problems = [key for key in own if key not in contents.tensors or own[key].shape != contents.tensors[key].shape]
    problems += [key for key in contents.tensors if key not in own]
    if problems:
        raise CheckpointError(
            f"the weights in {contents.weights} contradict the config in it ({config}): {len(problems)} tensors are "
            f"missing, not part of it or of another shape, {problems[0]} first"
        )
    network.load_state_dict(read_tensors(contents, order_of(contents, metadata_labels(contents))), assign=True)
    return network


def _load_segformer(contents: Contents) -> SegFormer:
    names = config_labels(contents) if contents.config is not None else metadata_labels(contents)
    order = order_of(contents, names)
    try:
        if contents.config is not None:
            config = SegFormerConfig.from_dict(contents.config)
        elif "config" in contents.metadata:
            config = SegFormerConfig.from_dict(json_of(contents.metadata["config"]))
        else:
            config = config_from_weights(contents.tensors)
        with torch.device("meta"):  # shapes alone, no random weights
            network = SegFormer(config)
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{contents.path} holds no SegFormer that we know: {error}") from error
    try:
        network.check_fit(from_published(contents.tensors))  # before anything is read
        weights = from_published(read_tensors(contents, order))
        for key, tensor in network.state_dict().items():
            if key.endswith(COUNTER):  # plays no part in inference; files that were converted by hand lack it
                weights.setdefault(key, torch.zeros_like(tensor, device="cpu"))
        network.load_state_dict(weights, strict=False, assign=True)
        return network
    except ValueError as error:
        config = "its own config" if contents.config is None else contents.path / "config.json"
        raise CheckpointError(f"{config} contradicts the weights in {contents.weights}. {error}") from error


def _load_onnx(file: Path) -> OnnxModel:
    contents = onnx_contents(file)
    order = order_of(contents, config_labels(contents) if contents.config is not None else None)
    try:
        return OnnxModel(file, order)
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
