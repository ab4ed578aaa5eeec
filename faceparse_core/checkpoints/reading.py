"""What lies at a path: the weights without their numbers, their configs, their labels; told apart and checked."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from faceparse_core.checkpoints.table import WEIGHTS, Checkpoint
from faceparse_core.errors import CheckpointError, number, said
from faceparse_core.labels import LABELS, NUM_LABELS, label_order
from faceparse_core.models import LARGEST_SIDE

COUNTER = "num_batches_tracked"
_SMALL = 1 << 16
_LARGEST_JSON = 64 << 20
_CLASSIFIER = re.compile(r"^(decode_head\.)?classifier\.(weight|bias)$")

_Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Contents:
    """What lies at a path, without its numbers: ``tensors`` are on the meta device and only have shapes and dtypes."""

    path: Path
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any] | None
    preprocessor: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        return str(self.files[0] if len(self.files) == 1 else self.path)


def onnx_file(path: Path) -> Path | None:
    """The ONNX file that a path means: the file itself, or the one of a folder without other weights."""
    if path.is_file():
        return path if path.suffix == ".onnx" else None
    if any(path.glob("*.safetensors")):
        return None
    for folder in (path / "onnx", path):
        files = sorted(folder.glob("*.onnx"))
        if folder / "model.onnx" in files:
            return folder / "model.onnx"
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"{folder} holds several models ({names}): give the path of one of them")
        if files:
            return files[0]
    return None


def describe_onnx(file: Path) -> Checkpoint:
    contents = onnx_contents(file)
    folder = contents.path.name + "/" if contents.config is not None else ""
    name = f"{folder}{file.name}"
    if not contents.preprocessor:
        return Checkpoint(name, file, "onnx")
    return Checkpoint(name, file, "onnx", *_preprocessing(contents))


def onnx_contents(file: Path) -> Contents:
    """What lies around an ONNX file: its configs, beside it, or above it if it is in a folder ``onnx``."""
    above = [file.parent.parent] if file.parent.name == "onnx" else []
    for folder in (file.parent, *above):
        config = _read_json(folder / "config.json")
        if config is not None:
            preprocessor = _read_json(folder / "preprocessor_config.json") or {}
            return Contents(folder, (file,), {}, {}, config, preprocessor)
    return Contents(file.parent, (file,), {}, {}, None)


def describe(path: Path, name: str, note: str = "") -> Checkpoint:
    contents = read_contents(path)
    architecture = architecture_of(contents)
    if architecture == "lite" or contents.preprocessor == {}:
        resolution = contents.metadata.get("resolution", "512")
        if not re.fullmatch("[0-9]{1,4}", resolution) or not 0 < int(resolution) <= LARGEST_SIDE:
            raise CheckpointError(
                f"{contents.weights}: the resolution must be 1 to {LARGEST_SIDE} pixels, not {said(repr(resolution))}"
            )
        return Checkpoint(name, path, architecture, _rounded(int(resolution)), note=note)
    return Checkpoint(name, path, architecture, *_preprocessing(contents), note=note)


def architecture_of(contents: Contents) -> str:
    declared = contents.metadata.get("architecture")
    if declared in ("lite", "segformer"):
        return declared
    if contents.config is not None:
        return "segformer" if contents.config.get("model_type") == "segformer" else "transformers"
    if any(key.startswith("decode_head.") for key in contents.tensors):
        return "segformer"
    first = ", ".join(list(contents.tensors)[:3]) or "none"
    raise CheckpointError(
        f"{contents.weights} is no face parsing network that we know (its {len(contents.tensors)} tensors: {first} …). "
        "Accepted without a config.json: lite and SegFormer."
    )


def read_contents(path: Path) -> Contents:
    if path.is_dir():
        files = _weight_files(path)
        config = _read_json(path / "config.json")
    elif path.suffix == ".safetensors" and path.is_file():
        files, config = (path,), None
    else:
        raise CheckpointError(f"{path} is no .safetensors file. {_CONVERT}")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        with _explained(file), safetensors.safe_open(file, framework="pt") as opened:
            metadata |= opened.metadata() or {}
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                view = opened.get_slice(key)
                dtype = torch.float32 if re.match("B?F", view.get_dtype()) else torch.int64
                tensors[key] = torch.empty(view.get_shape(), dtype=dtype, device="meta")
    preprocessor = _read_json(path / "preprocessor_config.json") if config is not None else None
    return Contents(path, files, tensors, metadata, config, preprocessor or {})


_CONVERT = (
    "Only safetensors files are opened, because a pickle (.bin, .pt, .pth, .ckpt) can run code. If you trust where it "
    'comes from, convert it: python -c "from transformers import AutoModelForSemanticSegmentation as Model; '
    "Model.from_pretrained('FOLDER', use_safetensors=False).save_pretrained('NEW_FOLDER')\""
)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The weights of a folder: model.safetensors, its shards, or the only .safetensors file."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    index = _read_json(folder / f"{WEIGHTS}.index.json")
    if index is not None:
        weight_map = index.get("weight_map")
        shards = sorted(
            {Path(str(shard)).name for shard in weight_map.values()} if isinstance(weight_map, dict) else ()
        )
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise CheckpointError(f"{folder} is not complete: {', '.join(missing) or 'all weights'} missing")
        return tuple(folder / shard for shard in shards)
    candidates = sorted(folder.glob("*.safetensors"))
    if len(candidates) == 1:
        return (candidates[0],)
    if candidates:
        names = ", ".join(file.name for file in candidates)
        raise CheckpointError(f"{folder} holds several models ({names}): give the path of one of them")
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickles:
        raise CheckpointError(f"{folder} has its weights in {', '.join(pickles)} only. {_CONVERT}")
    raise CheckpointError(f"{folder} holds no weights: a {WEIGHTS} is expected there")


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turns what safetensors says of a bad file into what a person can use."""
    try:
        yield
    except (safetensors.SafetensorError, OSError) as error:
        why = str(error)
        with contextlib.suppress(OSError), file.open("rb") as start:
            if start.read(30).startswith(b"version https://git-lfs"):
                why = "only the pointer that git leaves without git-lfs; run `git lfs pull`"
        what = "cannot be read" if isinstance(error, OSError) else "is damaged or no safetensors file"
        raise CheckpointError(f"{file} {what} ({why})") from error


def _read_json(file: Path) -> dict[str, Any] | None:
    """The object in a .json file; None if there is no such file."""
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it has more than {_LARGEST_JSON:,} bytes")
        data = json_of(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(data).__name__}")
    return data


def json_of(text: str) -> Any:
    """What a text in JSON says. Raises ValueError for one that is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _preprocessing(contents: Contents) -> tuple[int, _Colour, _Colour]:
    """The resolution, and the mean and std for pixels in 0..1, that a preprocessor_config.json asks for."""
    given = contents.preprocessor
    try:
        size: Any = given.get("crop_size") if given.get("do_center_crop") else given.get("size", 512)
        sides = [int(side) for side in size.values()] if isinstance(size, dict) else [int(size)]
        mean, std = [0.0] * 3, [1.0] * 3
        if given.get("do_normalize", "image_mean" in given):
            mean = [float(value) for value in given.get("image_mean", Checkpoint.mean)]
            std = [float(value) for value in given.get("image_std", Checkpoint.std)]
        # Networks that want 0..255, or another scale, get it from a mean and std that undo our 0..1.
        scale = 255 * float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 255.0
        mean, std = [value / scale for value in mean], [value / scale for value in std]
        if len(mean) != 3 or len(std) != 3 or not sides:
            raise ValueError("it needs a size, three means, and three deviations")
        for value in mean:
            number("image_mean", value)
        for value in std:
            number("image_std", value, 1e-6)
        side = _rounded(number("size", max(sides), 1, LARGEST_SIDE))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(f"{contents.path / 'preprocessor_config.json'} makes no sense: {error}") from error
    return side, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _rounded(side):
    return 32 * math.ceil(side / 32)


def config_labels(contents: Contents) -> list[str]:
    names = (contents.config or {}).get("id2label") or {}
    try:
        if sorted(map(int, names)) != list(range(len(names))):
            raise ValueError(f"its keys are {', '.join(map(str, names))}")
        return [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{contents.path / 'config.json'}: id2label must map 0, 1, 2 … to names") from error


def metadata_labels(contents: Contents) -> list[str] | None:
    if "labels" not in contents.metadata:
        return None
    try:
        return [str(name) for name in json_of(contents.metadata["labels"])]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the labels in {contents.weights} must be a JSON list of names") from error


def order_of(contents: Contents, names: Sequence[str] | None) -> list[int]:
    """The channel of each of our labels, after a check that the network tells just these apart.

    Without names the published order is taken for granted.
    """
    if names is None:
        names = [label.name for label in LABELS]
    where = contents.weights if contents.config is None else contents.path / "config.json"
    try:
        order = label_order(names)
    except ValueError as error:
        raise CheckpointError(f"{where} has other labels than ours: {error}") from error
    for key, tensor in contents.tensors.items():
        if not tensor.is_floating_point() and not key.endswith(COUNTER):
            raise CheckpointError(f"{contents.weights}: {key} holds whole numbers; quantised weights are not supported")
        if _CLASSIFIER.search(key) and len(tensor) != NUM_LABELS:
            raise CheckpointError(
                f"{contents.weights} tells {len(tensor)} labels apart ({key}), not the {NUM_LABELS} of CelebAMask-HQ"
            )
    return order


def read_tensors(contents: Contents, order: list[int]) -> dict[str, Tensor]:
    """All tensors of lite or SegFormer in float32, the classifier's rows in our order."""
    tensors: dict[str, Tensor] = {}
    for file in contents.files:
        with _explained(file):
            tensors |= safetensors.torch.load_file(file)
    for key, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor = (tensor[order] if _CLASSIFIER.search(key) else tensor).float()
        # The file is mapped, which reads it straight to where it is cast, packed or sent from. What is small is often
        # used as it is; copied, it stays the same when the file is written over.
        tensors[key] = tensor.clone() if tensor.numel() < _SMALL else tensor
    return tensors
