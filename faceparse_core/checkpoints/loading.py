"""Reading files into networks."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from faceparse_core.checkpoints.reading import (
    COUNTER,
    Contents,
    architecture_of,
    config_labels,
    metadata_labels,
    onnx_contents,
    order_of,
    read_contents,
    read_tensors,
)
from faceparse_core.checkpoints.table import Checkpoint
from faceparse_core.errors import CheckpointError
from faceparse_core.labels import NUM_LABELS
from faceparse_core.models.hub import HubModel
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
    build = {"lite": _load_lite, "segformer": _load_segformer, "transformers": _load_transformers}
    network = build[checkpoint.architecture](contents)
    for key, tensor in network.state_dict().items():
        # A sum shows every NaN and infinity and, unlike isfinite, needs no second copy of the weights.
        if tensor.is_floating_point() and not tensor.sum().isfinite():
            raise CheckpointError(f"{contents.weights} is damaged: {key} holds NaN or infinite values")
    if isinstance(network, (Lite, SegFormer)) and not trainable:
        network.fold()
    return network.eval().requires_grad_(trainable)


def _load_lite(contents: Contents) -> Lite:
    try:
        config = LiteConfig(**json.loads(contents.metadata["config"]))
        if config.num_labels != NUM_LABELS:
            raise ValueError(f"it has {config.num_labels} labels instead of {NUM_LABELS}")
        with torch.device("meta"):
            network = Lite(config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
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
            config = SegFormerConfig.from_dict(json.loads(contents.metadata["config"]))
        else:
            config = config_from_weights(contents.tensors)
        with torch.device("meta"):  # shapes alone, no random weights
            network = SegFormer(config)
    except (TypeError, ValueError, RuntimeError) as error:
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


def _load_transformers(contents: Contents) -> HubModel:
    """Through transformers: nothing from the network, no pickles, no code from the checkpoint."""
    order = order_of(contents, config_labels(contents))
    kind = contents.config.get("model_type")
    try:
        from transformers import AutoModelForSemanticSegmentation
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as kinds
    except ImportError as error:
        raise CheckpointError(f"{contents.path} needs transformers, which cannot be imported: {error}") from error
    if kind not in kinds:
        raise CheckpointError(
            f"{contents.path / 'config.json'}: transformers has no semantic segmentation of the type {kind!r}. "
            f"Accepted: lite, {', '.join(kinds)}."
        )
    try:
        network, report = AutoModelForSemanticSegmentation.from_pretrained(
            str(contents.path), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        raise CheckpointError(f"transformers cannot load {contents.path}: {error}") from error
    # transformers fills what is missing with random numbers and only warns.
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        raise CheckpointError(
            f"{contents.path / 'config.json'} contradicts the weights in {contents.weights}: {len(missing)} tensors of "
            f"a {kind} are missing or of another shape, {missing[0]} first"
        )
    return HubModel(network.float(), order, bgr=bool(contents.preprocessor.get("do_flip_channel_order")))


def _load_onnx(file: Path) -> OnnxModel:
    contents = onnx_contents(file)
    order = order_of(contents, config_labels(contents) if contents.config is not None else None)
    try:
        return OnnxModel(file, order)
    except ImportError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # onnxruntime has an exception of its own for every kind of damage
        raise CheckpointError(f"onnxruntime cannot run {file}: {error}") from error
