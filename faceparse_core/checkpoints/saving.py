"""Writing networks so that ``find`` and ``load`` read them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from faceparse_core.checkpoints.table import WEIGHTS, Checkpoint
from faceparse_core.errors import expanded
from faceparse_core.labels import LABELS, NUM_LABELS
from faceparse_core.models.lite import Lite
from faceparse_core.models.segformer import SegFormer
from faceparse_core.models.segformer_names import to_published


def save(
    network: nn.Module,
    folder_or_file: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float16,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a Lite or an unfolded SegFormer, with output channels in our order, so that ``find`` and ``load`` read it.

    A Lite becomes one self-describing file (in a folder: ``model.safetensors``). A SegFormer becomes a folder under the
    published names of its tensors, which transformers can load; a path that ends with .safetensors gives a single file.
    ``metadata`` goes into the header; "resolution" in it is what ``find`` reports. Files get their names when they are
    whole. Returns the path to give to ``find``.

    Raises ValueError for another or a folded network and for weights that ``dtype`` cannot hold.
    """
    path = expanded(Path(folder_or_file))
    if isinstance(network, Lite):
        if not isinstance(network.stem.norm, nn.BatchNorm2d):
            raise ValueError("a folded Lite cannot be saved: load it with trainable=True")
        architecture, config, tensors = "lite", asdict(network.config), network.state_dict()
    elif isinstance(network, SegFormer):
        if network.folded:
            raise ValueError("a folded SegFormer cannot be saved: load it with trainable=True")
        architecture, config, tensors = "segformer", network.config.to_dict(), to_published(network.state_dict())
    else:
        raise ValueError(f"only Lite and SegFormer networks can be saved, not {type(network).__name__}")
    if config["num_labels"] != NUM_LABELS:
        raise ValueError(f"the network has {config['num_labels']} labels; a checkpoint has our {NUM_LABELS}")
    tensors = {key: _as_saved(key, tensor, dtype) for key, tensor in tensors.items()}
    names = [label.name for label in LABELS]
    header = dict(metadata or {})
    alone = path.suffix == ".safetensors"
    if alone or architecture == "lite":
        header |= {"architecture": architecture, "config": json.dumps(config), "labels": json.dumps(names)}
    header["format"] = "faceparse" if architecture == "lite" else "pt"  # transformers insists on "pt"
    if architecture == "segformer" and not alone:
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
        del config["num_labels"]  # transformers counts the names
        _write(path / "config.json", _json_bytes(config))
        side = int(header.get("resolution", Checkpoint.resolution))
        preprocessor = preprocessor_config(side, Checkpoint.mean, Checkpoint.std)
        _write(path / "preprocessor_config.json", _json_bytes(preprocessor))
    _write(path if alone else path / WEIGHTS, safetensors.torch.save(tensors, header))
    return path


def _as_saved(key, tensor, dtype):
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    saved = tensor.to(dtype)
    if not saved.isfinite().all():
        raise ValueError(f"{key} has values up to {tensor.abs().max():.3g}, which {dtype} cannot hold; save in float32")
    return saved


def preprocessor_config(side: int, mean: Sequence[float], std: Sequence[float]) -> dict:
    """What transformers' preprocessor_config.json says for images stretched to ``side`` pixels and normalised so."""
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_reduce_labels": False,
    }


def _json_bytes(data):
    return (json.dumps(data, indent=2) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
