"""Finding a checkpoint by name or path, and fetching a known one that is not here.

The search goes through, in this order,

1. the path, if one is given: a folder as transformers saves it (``model.safetensors``, ``config.json`` and, where there
   is one, ``preprocessor_config.json``), a ``.safetensors`` file, an ``.onnx`` file, or a folder with such a file in it
   or in its ``onnx/``;
2. the folders that a host registered (``register_folder``), then ``FACEPARSE_HOME`` (``~/.cache/faceparse`` if that is
   not set): ``NAME/`` or ``NAME.safetensors`` in them;
3. the cache of the Hugging Face hub, at the pinned revision (``HF_HOME`` and ``HF_HUB_CACHE`` are honoured);
4. a download into the first of the folders of step 2 that can be written.

``HF_ENDPOINT`` names another server, ``HF_HUB_OFFLINE`` and ``FACEPARSE_OFFLINE`` forbid step 4. All of these variables
are read when they are needed, not at import.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import threading
from pathlib import Path
from typing import NamedTuple

from faceparse_core.checkpoints import table
from faceparse_core.checkpoints.downloads import (
    NoNetwork,
    Progress,
    Server,
    fetch,
    has_sha256,
    only_one,
    reporter,
    require_sha256,
    server_address,
)
from faceparse_core.checkpoints.reading import describe, describe_onnx, onnx_file
from faceparse_core.checkpoints.table import Checkpoint
from faceparse_core.errors import CheckpointError, expanded

_log = logging.getLogger("faceparse")

_folders: list[Path] = []
_failures: dict[str, CheckpointError] = {}  # by server: what went wrong with a download in this process
_lite_announced = threading.Lock()  # taken, once and for all, by whoever logs it


def register_folder(path: str | Path) -> None:
    """Adds a model folder to the search, after those registered before. Downloads go into the first writable one."""
    folder = expanded(path).absolute()
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
    size = table.BUNDLED_FILE.stat().st_size if table.BUNDLED_FILE.is_file() else 0
    rows = [Row(table.BUNDLED, str(table.BUNDLED_FILE) if size else "not here", size, table.BUNDLED_LICENCE)]
    for name, published in table.PUBLISHED.items():
        try:
            where = str(_locate(name) or "not here")
        except CheckpointError as error:
            where = f"damaged: {error}"
        rows.append(Row(name, where, published.size, published.licence))
    taken = {row.name for row in rows} | {name for published in table.PUBLISHED.values() for name in published.folders}
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
        raise ValueError(f"a model is a name such as 'auto' or {table.BUNDLED!r}, or a path, not {model!r}")
    if not isinstance(model, str):
        return _at(Path(model))
    name = _known_name(model)
    if name == "auto":
        return _best_or_bundled(progress)
    if name == table.BUNDLED:
        return _bundled()
    if name is not None:
        return _published(name, progress)
    if re.search(r"[/\\]|^[.~]|\.(safetensors|onnx)$", model):
        return _at(Path(model))
    local = _local_models()
    if model in local:
        return describe(local[model], model)
    if os.path.exists(model):
        return _at(Path(model))
    raise ValueError(_unknown_model(model, ["auto", table.BUNDLED, *table.PUBLISHED, *local]))


def _known_name(model):
    """The name in our table that is meant, or None; the repository on the hub is a name of its checkpoint too."""
    names = {"auto": "auto", table.BUNDLED: table.BUNDLED}
    for name, published in table.PUBLISHED.items():
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
    path = expanded(path)
    if not os.path.exists(path):  # unlike Path.exists, False for what no file can be called
        raise FileNotFoundError(
            f"there is no file or folder {path}. Models with a name: auto, {table.BUNDLED}, {table.BEST}."
        )
    path = path.absolute()
    if not path.is_dir() and not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder: pipes and devices are not read")
    if path.name == table.WEIGHTS and (path.parent / "config.json").is_file():
        path = path.parent  # the weights of a folder mean little without its config
    onnx = onnx_file(path)
    if onnx is not None:
        return describe_onnx(onnx)
    return describe(path, path.name if path.is_dir() else path.stem)


def _bundled() -> Checkpoint:
    if not table.BUNDLED_FILE.is_file():
        raise CheckpointError(f"the bundled weights {table.BUNDLED_FILE} are missing: install faceparse again")
    return describe(table.BUNDLED_FILE, table.BUNDLED, f"licence: {table.BUNDLED_LICENCE}")


def _published(name: str, progress: bool | Progress) -> Checkpoint:
    folder = _locate(name)
    if folder is None:
        failed = _failures.get(server_address())
        if isinstance(failed, NoNetwork):
            raise CheckpointError(f"{failed} (as noticed before in this process; `download` would try again)")
        folder = download(name, progress=progress)
    return describe(folder, name, f"licence: {table.PUBLISHED[name].licence}")


def _best_or_bundled(progress: bool | Progress) -> Checkpoint:
    try:
        failed = _failures.get(server_address())
        if failed is not None and _locate(table.BEST) is None:
            raise CheckpointError(str(failed))  # once is enough: nobody waits for another try at every picture
        return _published(table.BEST, progress)
    except CheckpointError as error:
        bundled = _bundled()
        if _lite_announced.acquire(blocking=False):
            published = table.PUBLISHED[table.BEST]
            _log.warning(
                "Parsing with the bundled model %r, which is smaller and less exact than %s: %s. "
                "To get %s (%.0f MB; %s), run `faceparse download %s`, or put its files into %s",
                table.BUNDLED, table.BEST, str(error).rstrip("."),
                table.BEST, published.size / 1e6, published.licence, table.BEST,
                next(iter(_roots()), Path("$FACEPARSE_HOME")) / table.BEST,
            )  # fmt: skip
        return bundled


def _locate(name: str) -> Path | None:
    """The folder where a published checkpoint lies, or None. Damaged weights are an error if there are no good ones."""
    published = table.PUBLISHED[name]
    places = [root / folder for root in _roots() for folder in published.folders]
    repository = f"models--{published.repository.replace('/', '--')}"
    places.append(_hub_cache() / repository / "snapshots" / published.revision)
    damaged = []
    for place in places:
        weights = place / table.WEIGHTS
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
    """The model folders; without FACEPARSE_HOME and a home directory only those that a host registered."""
    home = expanded(os.environ.get("FACEPARSE_HOME") or "~/.cache/faceparse")
    return [*_folders, *([] if home.parts[:1] == ("~",) else [home.absolute()])]


def _hub_cache() -> Path:
    # huggingface_hub fixes these at its import; a host may set them later.
    get = os.environ.get
    home = get("HF_HOME") or os.path.join(get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    cache = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return expanded(os.path.expandvars(cache))


# ---------------------------------------------------------------------------------------------- downloading


def download(name: str, *, progress: bool | Progress = True) -> Path:
    """Fetches a known checkpoint unless it is here already, and returns its folder (the file, for lite).

    ``progress``: a bar on stderr, nothing, or a function of (bytes here, bytes in all); what that function raises stops
    the download. An interrupted download goes on where it stopped. A file gets its name only after its sha256 is
    checked; of several processes one downloads and the others wait for it.

    Raises ValueError for a name that is not known and CheckpointError, with the reason, for one that cannot be had.
    """
    known_name = _known_name(name)
    if known_name == table.BUNDLED:
        return _bundled().path
    if known_name not in table.PUBLISHED:
        raise ValueError(_unknown_model(name, [table.BUNDLED, *table.PUBLISHED]))
    folder = _locate(known_name)
    if folder is not None:
        require_sha256(folder / table.WEIGHTS, table.PUBLISHED[known_name].weights)
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
    published = table.PUBLISHED[name]
    server = Server(f"{endpoint}/{published.repository}/resolve/{published.revision}")
    folder = _writable_folder(published.folders[0])
    with reporter(name, published.size, progress) as report, only_one(folder, published.files, report):
        done = 0
        for file in published.files:

            def report_here(here: int, before: int = done) -> None:
                report(before + here)

            if not has_sha256(folder / file.name, file):
                fetch(server, file, folder, report_here)
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
    why = f"no model folder can be written: {', '.join(refused)}" if refused else "there is no home directory"
    raise CheckpointError(f"{why}. Set FACEPARSE_HOME to a folder that can be written.")
