"""Which weights: the known checkpoints, local ones, finding, downloading, verifying, loading and saving them.

A model is asked for by name or by path. The search goes through, in this order,

1. the path, if one is given: a folder as transformers saves it (``model.safetensors``, ``config.json`` and, where there
   is one, ``preprocessor_config.json``), a ``.safetensors`` file, an ``.onnx`` file, or a folder with such a file in it
   or in its ``onnx/``;
2. the folders that a host registered (``register_folder``), then ``FACEPARSE_HOME`` (``~/.cache/faceparse`` if that is
   not set): ``NAME/`` or ``NAME.safetensors`` in them;
3. the cache of the Hugging Face hub, at the pinned revision (``HF_HOME`` and ``HF_HUB_CACHE`` are honoured);
4. a download into the first of the folders of step 2 that can be written.

``HF_ENDPOINT`` names another server, ``HF_HUB_OFFLINE`` and ``FACEPARSE_OFFLINE`` forbid step 4. All of these variables
are read when they are needed, not at import. Only safetensors and ONNX files are ever opened: a pickle can run code.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from faceparse_core.downloads import (
    CheckpointError,
    NoNetwork,
    Progress,
    RemoteFile,
    Server,
    fetch,
    has_sha256,
    only_one,
    reporter,
    require_sha256,
    server_address,
)
from faceparse_core.labels import LABELS, NUM_LABELS, label_order
from faceparse_core.models.hub import HubModel
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.onnx import OnnxModel
from faceparse_core.models.segformer import (
    SegFormer,
    SegFormerConfig,
    config_from_weights,
    from_published,
    to_published,
)

_log = logging.getLogger("faceparse")


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found, not loaded yet.

    ``path`` is a folder or a file, ``architecture`` one of "lite", "segformer", "transformers" and "onnx".
    ``resolution`` is the side of the square that the network was trained on, rounded up to a multiple of 32; pixels
    in 0..1 are normalised with ``mean`` and ``std`` (red, green, blue). ``note`` is what a user should know: the
    licence of published weights.
    """

    name: str
    path: Path
    architecture: str
    resolution: int = 512
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    note: str = ""


# ---------------------------------------------------------------------------------------------- known checkpoints


@dataclass(frozen=True)
class _Published:
    """A checkpoint on the hub, pinned. ``files`` ends with the weights, so that a folder with weights is complete."""

    repository: str
    revision: str
    files: tuple[RemoteFile, ...]
    licence: str
    folders: tuple[str, ...]  # names under which its folder may lie in a model folder; a download takes the first

    @property
    def weights(self) -> RemoteFile:
        return self.files[-1]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


_WEIGHTS = "model.safetensors"
_BEST = "segformer-b5"
_BUNDLED = "lite"
_BUNDLED_FILE = Path(__file__).parent / "weights" / "lite.safetensors"
_BUNDLED_LICENCE = "trained on CelebAMask-HQ: non-commercial research and education, says its model card"

_PUBLISHED = {
    _BEST: _Published(
        repository="jonathandinu/face-parsing",
        revision="758b82e15a0178c9db39c1ff666a8b56e3a550c8",
        files=(
            RemoteFile("config.json", 1_689, "01d82e818569beda6aec804642e34ce187bed43326337d52ce370ff015964d68"),
            RemoteFile(
                "preprocessor_config.json", 374, "e5a25d8fc054bf780be930e161b47d188bec1b0bf0a44fd5fdfb3f3312c0be0b"
            ),
            RemoteFile(_WEIGHTS, 338_580_732, "c2bec795a8c243db71bd95be538fd62559003566466c71237e45c99b920f4b62"),
        ),
        licence="non-commercial research and education, says its model card",
        folders=(_BEST, "face-parsing"),
    )
}

_folders: list[Path] = []
_failures: dict[str, CheckpointError] = {}  # by server: what went wrong with a download in this process
_lite_announced = threading.Lock()  # taken, once and for all, by whoever logs it


def register_folder(path: str | Path) -> None:
    """Adds a model folder to the search, after those registered before. Downloads go into the first writable one."""
    folder = Path(path).expanduser().absolute()
    if folder not in _folders:
        _folders.append(folder)


class Row(NamedTuple):
    """One line of ``faceparse models``: ``size`` in bytes, ``where`` a path or "not here"."""

    name: str
    where: str
    size: int
    licence: str


def known() -> list[Row]:
    """The known checkpoints, here or not, and whatever else lies in the model folders. Touches no network."""
    size = _BUNDLED_FILE.stat().st_size if _BUNDLED_FILE.is_file() else 0
    rows = [Row(_BUNDLED, str(_BUNDLED_FILE) if size else "not here", size, _BUNDLED_LICENCE)]
    for name, published in _PUBLISHED.items():
        try:
            where = str(_locate(name) or "not here")
        except CheckpointError as error:
            where = f"damaged: {error}"
        rows.append(Row(name, where, published.size, published.licence))
    taken = {row.name for row in rows} | {name for published in _PUBLISHED.values() for name in published.folders}
    for name, path in _local_models().items():
        if name not in taken:
            files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
            rows.append(Row(name, str(path), sum(file.stat().st_size for file in files), "unknown"))
    return rows


# ---------------------------------------------------------------------------------------------- finding


def find(model: str | os.PathLike[str] = "auto", *, progress: bool | Progress = True) -> Checkpoint:
    """The checkpoint behind a name ("auto", "lite", "segformer-b5", one in a model folder) or a path.

    ``auto`` is segformer-b5 where it is here or can be downloaded, else lite, with one log line that says so. A network
    that is missing is noticed within seconds and not tried again in this process, except by ``download``.
    ``progress`` is as in ``download``.

    Raises FileNotFoundError for a path where nothing is, ValueError for a name that is not known, and CheckpointError
    for weights that cannot be had, are damaged, or are no face parsing network.
    """
    if not isinstance(model, (str, os.PathLike)) or not str(model):
        raise ValueError(f"a model is a name such as 'auto' or {_BUNDLED!r}, or a path, not {model!r}")
    if not isinstance(model, str):
        return _at(Path(model))
    name = _known_name(model)
    if name == "auto":
        return _best_or_bundled(progress)
    if name == _BUNDLED:
        return _bundled()
    if name is not None:
        return _published(name, progress)
    if re.search(r"[/\\]|^[.~]|\.(safetensors|onnx)$", model):
        return _at(Path(model))
    local = _local_models()
    if model in local:
        return _describe(local[model], model)
    if os.path.exists(model):
        return _at(Path(model))
    raise ValueError(_unknown_model(model, ["auto", _BUNDLED, *_PUBLISHED, *local]))


def _known_name(model):
    """The name in our table that is meant, or None; the repository on the hub is a name of its checkpoint too."""
    names = {"auto": "auto", _BUNDLED: _BUNDLED}
    for name, published in _PUBLISHED.items():
        names |= {name: name, published.repository: name}
    return names.get(model.strip().casefold())


def _unknown_model(model, names):
    near = difflib.get_close_matches(model.casefold(), names, n=3, cutoff=0.5)
    suggestion = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
    folders = ", ".join(str(root) for root in _roots())
    return (
        f"there is no model {model!r}{suggestion} Models: {', '.join(names)}; or give the path of a folder or of a "
        f".safetensors or .onnx file, or put it into a model folder ({folders})."
    )


def _at(path: Path) -> Checkpoint:
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}. Models with a name: auto, {_BUNDLED}, {_BEST}.")
    path = path.absolute()
    if path.name == _WEIGHTS and (path.parent / "config.json").is_file():
        path = path.parent  # the weights of a folder mean little without its config
    onnx = _onnx_file(path)
    if onnx is not None:
        return _describe_onnx(onnx)
    return _describe(path, path.name if path.is_dir() else path.stem)


def _bundled() -> Checkpoint:
    if not _BUNDLED_FILE.is_file():
        raise CheckpointError(f"the bundled weights {_BUNDLED_FILE} are missing: install faceparse again")
    return _describe(_BUNDLED_FILE, _BUNDLED, f"licence: {_BUNDLED_LICENCE}")


def _published(name: str, progress: bool | Progress) -> Checkpoint:
    folder = _locate(name)
    if folder is None:
        failed = _failures.get(server_address())
        if isinstance(failed, NoNetwork):
            raise CheckpointError(f"{failed} (as noticed before in this process; `download` would try again)")
        folder = download(name, progress=progress)
    return _describe(folder, name, f"licence: {_PUBLISHED[name].licence}")


def _best_or_bundled(progress: bool | Progress) -> Checkpoint:
    try:
        failed = _failures.get(server_address())
        if failed is not None and _locate(_BEST) is None:
            raise CheckpointError(str(failed))  # once is enough: nobody waits for another try at every picture
        return _published(_BEST, progress)
    except CheckpointError as error:
        bundled = _bundled()
        if _lite_announced.acquire(blocking=False):
            published = _PUBLISHED[_BEST]
            _log.warning(
                "Parsing with the bundled model %r, which is smaller and less exact than %s: %s. "
                "To get %s (%.0f MB; %s), run `faceparse download %s`, or put its files into %s",
                _BUNDLED, _BEST, str(error).rstrip("."),
                _BEST, published.size / 1e6, published.licence, _BEST, _roots()[0] / _BEST,
            )  # fmt: skip
        return bundled


def _locate(name: str) -> Path | None:
    """The folder where a published checkpoint lies, or None. Damaged weights are an error if there are no good ones."""
    published = _PUBLISHED[name]
    places = [root / folder for root in _roots() for folder in published.folders]
    repository = f"models--{published.repository.replace('/', '--')}"
    places.append(_hub_cache() / repository / "snapshots" / published.revision)
    damaged = []
    for place in places:
        weights = place / _WEIGHTS
        if os.path.isfile(weights):  # unlike Path.is_file, False for what we may not look at
            size = weights.stat().st_size
            if size == published.weights.size:
                return place
            damaged.append(f"{weights} has {size:,} bytes where {name} has {published.weights.size:,}")
    if damaged:
        raise CheckpointError(
            f"{'; '.join(damaged)}. Delete it if it is damaged; if it is another model, give it another name."
        )
    return None


def _local_models() -> dict[str, Path]:
    """What lies in the model folders, by name; of two with one name the first in the search."""
    models: dict[str, Path] = {}
    for root in _roots():
        with contextlib.suppress(OSError):  # a folder that is missing or closed to us holds no models
            for path in sorted(root.iterdir()):
                if path.is_file() and path.suffix == ".safetensors":
                    models.setdefault(path.stem, path)
                elif path.is_dir() and any(path.glob("*.safetensors")):
                    models.setdefault(path.name, path)
    return models


def _roots() -> list[Path]:
    home = os.environ.get("FACEPARSE_HOME") or "~/.cache/faceparse"
    return [*_folders, Path(home).expanduser().absolute()]


def _hub_cache() -> Path:
    # huggingface_hub fixes these at its import; a host may set them later.
    get = os.environ.get
    home = get("HF_HOME") or os.path.join(get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    cache = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(cache)).expanduser()


# ---------------------------------------------------------------------------------------------- downloading


def download(name: str, *, progress: bool | Progress = True) -> Path:
    """Fetches a known checkpoint unless it is here already, and returns its folder (the file, for lite).

    ``progress``: a bar on stderr, nothing, or a function of (bytes here, bytes in all); what that function raises stops
    the download. An interrupted download goes on where it stopped. A file gets its name only after its sha256 is
    checked; of several processes one downloads and the others wait for it.

    Raises ValueError for a name that is not known and CheckpointError, with the reason, for one that cannot be had.
    """
    known_name = _known_name(name)
    if known_name == _BUNDLED:
        return _bundled().path
    if known_name not in _PUBLISHED:
        raise ValueError(_unknown_model(name, [_BUNDLED, *_PUBLISHED]))
    folder = _locate(known_name)
    if folder is not None:
        require_sha256(folder / _WEIGHTS, _PUBLISHED[known_name].weights)
        return folder
    for variable in ("FACEPARSE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise CheckpointError(f"{known_name} is not here, and {variable} forbids downloading it")
    endpoint = server_address()
    try:
        folder = _download(known_name, endpoint, progress)
    except CheckpointError as error:
        _failures[endpoint] = error
        raise
    _failures.pop(endpoint, None)
    return folder


def _download(name: str, endpoint: str, progress: bool | Progress) -> Path:
    published = _PUBLISHED[name]
    server = Server(f"{endpoint}/{published.repository}/resolve/{published.revision}")
    folder = _writable_folder(published.folders[0])
    with reporter(name, published.size, progress) as report, only_one(folder, published.files, report):
        done = 0
        for file in published.files:
            if not has_sha256(folder / file.name, file):
                fetch(server, file, folder, lambda here, done=done: report(done + here))
            done += file.size
            report(done)
    _log.info("%s lies in %s. Licence: %s", name, folder, published.licence)
    return folder


def _writable_folder(name: str) -> Path:
    """``name`` in the first model folder that can be written; made if it is not there."""
    refused = []
    for root in _roots():
        folder = root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.{threading.get_ident()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            refused.append(f"{folder} ({error.strerror or error})")
            continue
        if refused:
            _log.info("Cannot write %s; downloading into %s", ", ".join(refused), folder)
        return folder
    raise CheckpointError(f"no model folder can be written: {', '.join(refused)}. Set FACEPARSE_HOME to one that can.")


# ---------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Contents:
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
    contents = _read_contents(checkpoint.path)
    if _architecture(contents) != checkpoint.architecture:
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


def _load_lite(contents: _Contents) -> Lite:
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
    network.load_state_dict(_tensors(contents, _order(contents, _metadata_labels(contents))), assign=True)
    return network


def _load_segformer(contents: _Contents) -> SegFormer:
    names = _config_labels(contents) if contents.config is not None else _metadata_labels(contents)
    order = _order(contents, names)
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
        weights = from_published(_tensors(contents, order))
        for key, tensor in network.state_dict().items():
            if key.endswith(_COUNTER):  # plays no part in inference; files that were converted by hand lack it
                weights.setdefault(key, torch.zeros_like(tensor, device="cpu"))
        network.load_state_dict(weights, strict=False, assign=True)
        return network
    except ValueError as error:
        config = "its own config" if contents.config is None else contents.path / "config.json"
        raise CheckpointError(f"{config} contradicts the weights in {contents.weights}. {error}") from error


def _load_transformers(contents: _Contents) -> HubModel:
    """Through transformers: nothing from the network, no pickles, no code from the checkpoint."""
    order = _order(contents, _config_labels(contents))
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


def _onnx_file(path: Path) -> Path | None:
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


def _describe_onnx(file: Path) -> Checkpoint:
    contents = _onnx_contents(file)
    folder = contents.path.name + "/" if contents.config is not None else ""
    name = f"{folder}{file.name}"
    if not contents.preprocessor:
        return Checkpoint(name, file, "onnx")
    return Checkpoint(name, file, "onnx", *_preprocessing(contents))


def _onnx_contents(file: Path) -> _Contents:
    """What lies around an ONNX file: its configs, beside it, or above it if it is in a folder ``onnx``."""
    above = [file.parent.parent] if file.parent.name == "onnx" else []
    for folder in (file.parent, *above):
        config = _read_json(folder / "config.json")
        if config is not None:
            preprocessor = _read_json(folder / "preprocessor_config.json") or {}
            return _Contents(folder, (file,), {}, {}, config, preprocessor)
    return _Contents(file.parent, (file,), {}, {}, None)


def _load_onnx(file: Path) -> OnnxModel:
    contents = _onnx_contents(file)
    order = _order(contents, _config_labels(contents) if contents.config is not None else None)
    try:
        return OnnxModel(file, order)
    except ImportError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # onnxruntime has an exception of its own for every kind of damage
        raise CheckpointError(f"onnxruntime cannot run {file}: {error}") from error


def _describe(path: Path, name: str, note: str = "") -> Checkpoint:
    contents = _read_contents(path)
    architecture = _architecture(contents)
    if architecture == "lite" or contents.preprocessor == {}:
        resolution = contents.metadata.get("resolution", "512")
        if not resolution.isdecimal() or not int(resolution):
            raise CheckpointError(f"{contents.weights}: the resolution must be a number of pixels, not {resolution!r}")
        return Checkpoint(name, path, architecture, _rounded(int(resolution)), note=note)
    return Checkpoint(name, path, architecture, *_preprocessing(contents), note=note)


def _architecture(contents: _Contents) -> str:
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


def _read_contents(path: Path) -> _Contents:
    if path.is_dir():
        files = _weight_files(path)
        config = _read_json(path / "config.json")
    elif path.suffix == ".safetensors":
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
    return _Contents(path, files, tensors, metadata, config, preprocessor or {})


_CONVERT = (
    "Only safetensors files are opened, because a pickle (.bin, .pt, .pth, .ckpt) can run code. If you trust where it "
    'comes from, convert it: python -c "from transformers import AutoModelForSemanticSegmentation as Model; '
    "Model.from_pretrained('FOLDER', use_safetensors=False).save_pretrained('NEW_FOLDER')\""
)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The weights of a folder: model.safetensors, its shards, or the only .safetensors file."""
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    index = _read_json(folder / f"{_WEIGHTS}.index.json")
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
    raise CheckpointError(f"{folder} holds no weights: a {_WEIGHTS} is expected there")


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
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(data).__name__}")
    return data


def _preprocessing(contents: _Contents) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """The resolution, and the mean and std for pixels in 0..1, that a preprocessor_config.json asks for."""
    given = contents.preprocessor
    try:
        size = given.get("crop_size") if given.get("do_center_crop") else given.get("size", 512)
        sides = [int(side) for side in size.values()] if isinstance(size, dict) else [int(size)]
        mean, std = (0.0,) * 3, (1.0,) * 3
        if given.get("do_normalize", "image_mean" in given):
            mean = tuple(float(value) for value in given.get("image_mean", Checkpoint.mean))
            std = tuple(float(value) for value in given.get("image_std", Checkpoint.std))
        # Networks that want 0..255, or another scale, get it from a mean and std that undo our 0..1.
        scale = 255 * float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 255.0
        mean, std = tuple(value / scale for value in mean), tuple(value / scale for value in std)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or max(sides) <= 0:
            raise ValueError("it needs a size above 0, three means, and three deviations above 0")
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{contents.path / 'preprocessor_config.json'} makes no sense: {error}") from error
    return _rounded(max(sides)), mean, std


def _rounded(side):
    return 32 * math.ceil(side / 32)


def _config_labels(contents: _Contents) -> list[str]:
    names = contents.config.get("id2label") or {}
    try:
        if sorted(map(int, names)) != list(range(len(names))):
            raise ValueError(f"its keys are {', '.join(map(str, names))}")
        return [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{contents.path / 'config.json'}: id2label must map 0, 1, 2 … to names") from error


def _metadata_labels(contents: _Contents) -> list[str] | None:
    if "labels" not in contents.metadata:
        return None
    try:
        return [str(name) for name in json.loads(contents.metadata["labels"])]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the labels in {contents.weights} must be a JSON list of names") from error


def _order(contents: _Contents, names: Sequence[str] | None) -> list[int]:
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
        if not tensor.is_floating_point() and not key.endswith(_COUNTER):
            raise CheckpointError(f"{contents.weights}: {key} holds whole numbers; quantised weights are not supported")
        if _CLASSIFIER.search(key) and len(tensor) != NUM_LABELS:
            raise CheckpointError(
                f"{contents.weights} tells {len(tensor)} labels apart ({key}), not the {NUM_LABELS} of CelebAMask-HQ"
            )
    return order


_COUNTER = "num_batches_tracked"
_SMALL = 1 << 16
_CLASSIFIER = re.compile(r"^(decode_head\.)?classifier\.(weight|bias)$")


def _tensors(contents: _Contents, order: list[int]) -> dict[str, Tensor]:
    """All tensors of lite or SegFormer in float32, the classifier's rows in our order."""
    tensors = {}
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


# ---------------------------------------------------------------------------------------------- writing


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
    path = Path(folder_or_file).expanduser()
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
    _write(path if alone else path / _WEIGHTS, safetensors.torch.save(tensors, header))
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
