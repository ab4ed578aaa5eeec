"""ComfyUI as the nodes see it: model folders, devices, memory, progress, interruption. Nothing else touches ``comfy``.

A network is loaded once and handed to ComfyUI's memory management, which moves it to the GPU when it runs and off it
when something else needs the room or somebody asks for it. It stays in memory as long as ComfyUI keeps a Parse Face
node, so that clearing the node cache frees it, as it frees ComfyUI's own models.
"""

from __future__ import annotations

import logging
import os
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management as memory
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import InputImpl, io, ui
from PIL import Image
from server import PromptServer
from torch import Tensor

from .later import Later

if TYPE_CHECKING:
    from faceparse_core.checkpoints import Checkpoint
    from faceparse_core.parser import FaceParser
    from faceparse_core.parsing import Parsing

MODEL_FOLDER = "face_parsing"
_ALWAYS_LISTED = ("auto", "segformer-b5", "lite")

# The parsings of so many images stay on the GPU until they are rendered.
_IMAGES_ON_GPU = 64

_log = logging.getLogger("faceparse")
_networks: dict[tuple, ModelPatcher] = {}
_nodes = 0  # Parse Face nodes that ComfyUI keeps
_same_as: dict[tuple, tuple] = {}
_with_text: set[str] = set()  # nodes that a line was written on


# ---------------------------------------------------------------------------------------------- models


def register_model_folder() -> None:
    """Adds ``models/face_parsing`` to ComfyUI's folders, and all of that name to those that the engine searches.

    It goes before those of ``extra_model_paths.yaml``, so that downloads go there if it can be written.
    """
    folder = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    folder_paths.add_model_folder_path(MODEL_FOLDER, folder, is_default=True)
    try:
        from faceparse_core import checkpoints
    except ImportError:
        return  # the log says what is missing
    for path in folder_paths.get_folder_paths(MODEL_FOLDER):
        checkpoints.register_folder(path)


def model_names() -> list[str]:
    """``auto``, the known models, and what lies in the model folders."""
    try:
        from faceparse_core import checkpoints
    except ImportError:
        return list(_ALWAYS_LISTED)
    return list(dict.fromkeys([*_ALWAYS_LISTED, *(row.name for row in checkpoints.known())]))


def model_fingerprint(model: str) -> tuple:
    """Changes when other files would be used for ``model``, but not because a run has downloaded them."""
    state = _state(model)
    return _same_as.get(state, state)


def _state(model: str) -> tuple:
    from faceparse_core import checkpoints
    from faceparse_core.parser import stamp

    wanted = _ALWAYS_LISTED if model == "auto" else (model,)
    rows = [row for row in checkpoints.known() if row.name in wanted]
    return (model, *((row.where, stamp(Path(row.where)) if os.path.exists(row.where) else None) for row in rows))


def _found(model: str) -> Checkpoint:
    """The checkpoint behind a name; a download shows on the node and stops when ComfyUI is interrupted."""
    from faceparse_core import checkpoints

    before = _state(model)
    checkpoint = checkpoints.find(model, progress=Progress())
    after = _state(model)
    if after != before:
        _same_as[after] = _same_as.get(before, before)
    return checkpoint


def _network(checkpoint: Checkpoint, device: torch.device, precision: str) -> ModelPatcher:
    """The network of a checkpoint under ComfyUI's memory management; loaded again if its files have changed."""
    from faceparse_core import checkpoints
    from faceparse_core.devices import PRECISIONS, placed
    from faceparse_core.parser import ready, stamp

    key = (checkpoint.path, stamp(checkpoint.path), precision)
    if key not in _networks:
        network, dtype = checkpoints.load(checkpoint), PRECISIONS[precision]
        # What runs on the CPU stays there, and may take a form that cannot be moved.
        to_stay = device.type == "cpu"
        network = ready(network, device, dtype) if to_stay else placed(network, dtype=dtype)
        _networks[key] = ModelPatcher(network, load_device=device, offload_device=memory.unet_offload_device())
    return _networks[key]


def keep_networks_with(node: object) -> None:
    """Networks stay loaded as long as there is a ``node`` that asked for this."""
    global _nodes
    _nodes += 1
    weakref.finalize(node, _node_gone).atexit = False


def _node_gone() -> None:
    global _nodes
    _nodes -= 1
    if not _nodes:
        _networks.clear()


# ---------------------------------------------------------------------------------------------- parsing


def parse(
    images: Tensor,
    *,
    model: str,
    precision: str,
    resolution: int,
    batch_size: int,
    faces: str | list = "auto",
    track: bool = False,
) -> tuple[Parsing, FaceParser]:
    """The parsing of images [B, H, W, C] on ComfyUI's device, and the parser that did it.

    ``faces``: ``"auto"``, ``"image"``, or of each image a list of boxes. ``track``: they are the frames of a video.
    ``batch_size`` 0 means as many as fit.
    Progress shows on the node, and an interruption is noticed after each batch. The logits end up where ComfyUI keeps
    what goes from node to node.
    """
    from faceparse_core.devices import choose_precision
    from faceparse_core.faces import Tracker
    from faceparse_core.parser import BATCH_ON_CPU, BATCH_ON_GPU, FaceParser, bytes_per_image

    checkpoint = _found(model)
    device = memory.get_torch_device()
    if precision == "auto" and device.type == "cuda" and not memory.should_use_fp16(device):
        precision = "fp32"
    precision = choose_precision(precision, device)
    patcher = _network(checkpoint, device, precision)
    parser = FaceParser(checkpoint, device, precision, resolution=resolution, network=patcher.model)

    batch = min(batch_size or (BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU), len(images))
    room = bytes_per_image(resolution, precision)
    memory.load_models_gpu([patcher], memory_required=batch * room, force_full_load=True)
    if not batch_size and device.type != "cpu":
        batch = max(1, min(batch, int(memory.get_free_memory(device)) // room))

    tick = Progress()
    tracker = Tracker() if track else False
    parts = []
    for start in range(0, max(1, len(images)), _IMAGES_ON_GPU):
        some = slice(start, start + _IMAGES_ON_GPU)

        def progress(done: int, _: int, before: int = start) -> None:
            tick(before + done, len(images))

        part = parser.parse(
            images[some],
            faces=faces if isinstance(faces, str) else faces[some],
            track=tracker,
            batch_size=max(1, batch),
            progress=progress,
        )
        if device.type != "cpu":
            _ = part.labels  # rendered where the logits are: a GPU is quicker at it
        parts.append(part.to(memory.intermediate_device()))
    return type(parts[0]).joined(parts), parser


# ---------------------------------------------------------------------------------------------- the node that runs


class Progress:
    """``progress(done, total)`` shows on the node that runs, and raises ComfyUI's exception if it is interrupted."""

    def __init__(self):
        self._bar = None
        memory.throw_exception_if_processing_interrupted()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        self._bar.update_absolute(done, total)
        memory.throw_exception_if_processing_interrupted()


def give(result: Tensor) -> Tensor:
    """A mask or an image as ComfyUI wants it: where it keeps what goes from node to node, and as exact as there."""
    return result.to(memory.intermediate_device(), memory.intermediate_dtype())


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Writes a line on a node and into the log; an empty one takes the line away."""
    if text:
        _log.warning("%s: %s", node.define_schema().display_name, text)
    show_text(node.hidden.unique_id, text)


def show_text(node_id: str | None, text: str) -> None:
    """Writes a line on a node; an empty one takes away what was written there before."""
    if node_id and (text or node_id in _with_text):
        PromptServer.instance.send_progress_text(text, node_id)
        (_with_text.add if text else _with_text.discard)(node_id)


def save_picture(image: Tensor) -> ui.SavedResult:
    """Writes a picture, uint8 [H, W, 3], among ComfyUI's temporary ones. JPEG, because PNG takes ten times as long."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"faceparse_{uuid.uuid4().hex}.jpg"
    Image.fromarray(image.contiguous().numpy()).save(folder / name, quality=85)
    return ui.SavedResult(name, "", io.FolderType.temp)


def read_video(file: Path) -> Tensor:
    """All frames of a video, float32 [B, H, W, 3] in 0..1."""
    return InputImpl.VideoFromFile(str(file)).get_components().images


def give_later(shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
    """What ``give(make())`` gives, made when a node first looks at it."""
    return Later.of(shape, memory.intermediate_dtype(), memory.intermediate_device(), lambda: give(make()))
