"""Networks of transformers, from folders whose config may say anything: what it may not do is read elsewhere."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from faceparse_core.checkpoints.reading import Contents, config_labels, order_of
from faceparse_core.errors import CheckpointError, explained, said
from faceparse_core.models.hub import HubModel

# No network has more layers, or sizes that are so many times the largest in its weights (and more than 1024).
_MOST_LAYERS, _MOST_TIMES = 1000, 4
_LAYERS, _SIZES = re.compile("layers|depth|blocks"), re.compile("hidden|intermediate|embed|channel|width|_dim")

_alone = threading.local()
_guarded = threading.Lock()  # taken, once and for all, by whoever puts the guard in place


def load_foreign(contents: Contents) -> HubModel:
    """A network through transformers: nothing from the network, no pickles, no code from the checkpoint."""
    order = order_of(contents, config_labels(contents))
    file = contents.path / "config.json"
    kind = (contents.config or {}).get("model_type")
    try:
        from transformers import AutoModelForSemanticSegmentation
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as kinds
    except ImportError as error:
        raise CheckpointError(f"{contents.path} needs transformers, which cannot be imported: {error}") from error
    if not isinstance(kind, str) or kind not in kinds:
        raise CheckpointError(
            f"{file}: transformers has no semantic segmentation of the type {said(repr(kind))}. "
            f"Accepted: lite, {', '.join(kinds)}."
        )
    if (contents.path / "adapter_config.json").exists():
        raise CheckpointError(f"{contents.path} is an adapter for another model: merge it into that one, and save both")
    largest = max((side for tensor in contents.tensors.values() for side in tensor.shape), default=0)
    _check_config(contents.config, str(file), max(1024, _MOST_TIMES * largest))
    with explained(f"transformers cannot load {contents.path}", CheckpointError), nothing_leaves():
        network, report = AutoModelForSemanticSegmentation.from_pretrained(
            str(contents.path), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    # transformers fills what is missing with random numbers and only warns.
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        raise CheckpointError(
            f"{file} contradicts the weights in {contents.weights}: {len(missing)} tensors of a {kind} are missing or "
            f"of another shape, {missing[0]} first"
        )
    return HubModel(network.float(), order, bgr=bool(contents.preprocessor.get("do_flip_channel_order")))


def _check_config(value: Any, where: str, largest: int, key: str = "") -> None:
    """Refuses what a config may not say: that a part lies elsewhere, or that it is far larger than its weights."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_config(inner, where, largest, name)
    elif isinstance(value, list):
        for inner in value:
            _check_config(inner, where, largest, key)
    elif isinstance(value, str) and key == "backbone":
        raise CheckpointError(
            f"{where} names a backbone, {said(repr(value))}, that lies elsewhere, and nothing is fetched for a local "
            "model: save it with its backbone_config (transformers' save_pretrained does)"
        )
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        most = _MOST_LAYERS if _LAYERS.search(key) else largest if _SIZES.search(key) else float("inf")
        if value > most:
            raise CheckpointError(f"{where}: {key} is {value}, which cannot be; its weights are far smaller")


@contextlib.contextmanager
def nothing_leaves() -> Iterator[None]:
    """Inside, in this thread, every connection and every look-up of a name is a CheckpointError.

    Libraries that are asked for local files alone ask a server all the same, in some corner. Python can tell of every
    socket that is opened (``sys.addaudithook``); whoever listens does so as long as the process.
    """
    if _guarded.acquire(blocking=False):
        sys.addaudithook(_refuse)
    _alone.depth = getattr(_alone, "depth", 0) + 1
    try:
        yield
    finally:
        _alone.depth -= 1


def _refuse(event: str, arguments: tuple) -> None:
    if event.startswith("socket.") and getattr(_alone, "depth", 0) > 0 and event in _GOES_OUT:
        raise CheckpointError("it wants to be read from a server, and nothing is fetched for a local model")


_GOES_OUT = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
