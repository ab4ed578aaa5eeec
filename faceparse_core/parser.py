"""FaceParser: a loaded checkpoint on a device, in a precision; images in, a Parsing out."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from faceparse_core import checkpoints
from faceparse_core import images as pictures
from faceparse_core.checkpoints import Checkpoint
from faceparse_core.devices import PRECISIONS, choose_device, choose_precision
from faceparse_core.faces import (
    ORDERS,
    Found,
    Look,
    Tracker,
    arranged,
    background,
    compose,
    cut,
    framing,
    from_boxes,
    look_again,
    padded,
    search,
    settle,
)
from faceparse_core.images import Images
from faceparse_core.models.cuda_graphs import Graphed
from faceparse_core.models.lite import Lite
from faceparse_core.models.onnx import choose_device as onnx_device
from faceparse_core.models.segformer import SegFormer
from faceparse_core.parsing import Details, Parsing
from faceparse_core.rendering import Window

FITS = ("auto", "stretch", "pad")
_STRIDE = 32  # input sizes are multiples of it
# Up to this ratio of the sides a picture is stretched to the square. Beyond it, keeping the proportions parses better:
# see benchmarks/fit.py.
_STRETCH_UP_TO = 1.1

# More on a CPU are slower: they do not stay in its cache.
BATCH_ON_CPU, BATCH_ON_GPU = 2, 32

# The looks at so many images are kept until their faces are put together.
_SCENES_AT_ONCE = 16

_log = logging.getLogger("faceparse")
_networks: dict[tuple, tuple[object, nn.Module]] = {}
_loading = threading.Lock()


class FaceParser:
    """Parses images with one checkpoint.

    ``model``: ``"auto"``, a known name (``faceparse models`` lists them), a folder, a ``.safetensors`` or an ``.onnx``
    file.
    ``device``: ``"auto"`` (cuda, mps, xpu, cpu: the first that is there; for ONNX files cuda where onnxruntime has it,
    else cpu) or a torch device.
    ``precision``: ``"auto"`` (fp16 on cuda, bf16 on CPUs with AMX, else fp32), ``"fp32"``, ``"bf16"`` or ``"fp16"``;
    what a CPU would only emulate is computed in fp32, with a warning; an ONNX file computes in its own and takes
    ``"auto"`` alone.
    ``resolution``: side of the square that the network sees, a multiple of 32; the checkpoint's own (512) if not given.
    ``fit``: ``"stretch"`` brings every image to that square, as the model was trained; ``"pad"`` keeps the aspect ratio
    over about as many pixels; ``"auto"`` stretches what is nearly square and pads the rest (and stretches everything
    for architectures other than SegFormer and Lite, and for ONNX files of a fixed size: many take no other size).
    ``network``: for a host that manages memory itself, the network of ``model`` (a ``Checkpoint`` then), already in
    ``precision``; the host sees to it that it lies on ``device`` whenever ``parse`` runs.

    A network is loaded once in a process and shared by all parsers that ask for it; parsers may be used from threads.
    Raises ``ValueError`` for a bad argument, ``FileNotFoundError`` and ``CheckpointError`` for the checkpoint.
    """

    def __init__(
        self,
        model: str | Path | Checkpoint = "auto",
        device: str | torch.device = "auto",
        precision: str = "auto",
        *,
        resolution: int | None = None,
        fit: str = "auto",
        network: nn.Module | None = None,
    ):
        if fit not in FITS:
            raise ValueError(f"unknown fit '{fit}': choose one of {', '.join(FITS)}")
        # A host may run on devices that we do not know of.
        self.device = choose_device(device) if network is None else torch.device(device)
        self.precision = choose_precision(precision, self.device)
        self.fit = fit
        self.checkpoint = model if isinstance(model, Checkpoint) else checkpoints.find(model)
        if self.checkpoint.architecture == "onnx":
            if precision not in ("auto", "fp32"):
                raise ValueError(
                    f"{self.checkpoint.path} computes in the precision that it was written in, not in {precision}: "
                    "take precision='auto', and the file that was exported in another precision"
                )
            self.device, self.precision = choose_device(onnx_device(device)), "fp32"
        self.resolution = self.checkpoint.resolution if resolution is None else resolution
        if not (isinstance(self.resolution, int) and self.resolution > 0 and self.resolution % _STRIDE == 0):
            raise ValueError(f"resolution must be a positive multiple of {_STRIDE}, such as 512, not {resolution!r}")
        if network is None:
            network = _shared_network(self.checkpoint, self.device, PRECISIONS[self.precision])
        self.network = network
        # Some ONNX files take pictures of one size alone.
        self._fixed_size: tuple[int, int] | None = getattr(network, "input_size", None)
        if self._fixed_size and resolution is not None and (resolution, resolution) != self._fixed_size:
            height, width = self._fixed_size
            raise ValueError(f"{self.checkpoint.path} takes pictures of {height}x{width} alone, not {resolution}")
        if self._fixed_size:
            self.resolution = max(self._fixed_size)

    def __repr__(self) -> str:
        return (
            f"FaceParser({self.checkpoint.name} on {self.device}, {self.precision}, {self.resolution}, fit={self.fit})"
        )

    def parse(
        self,
        images: Images,
        *,
        faces: str | Sequence = "auto",
        order: str = "size",
        smallest: float = 0,
        track: bool | Tracker = False,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Parsing:
        """Parse images of any number and size.

        ``images``: a path, a PIL image, a uint8 array [H, W], [H, W, C] or [B, H, W, C], a float tensor
        [B, H, W, C] or [H, W, C] in [0, 1], or a list of these.

        ``faces``: ``"image"`` parses each image as the portrait of one face. ``"auto"`` does so where one face fills
        it; else it searches the faces and parses each in a window of its own; where there is none all is background.
        Or the faces' boxes, a list of ``(x, y, width, height)`` or ``{"x": …, "y": …, "width": …, "height": …}`` for
        each image. ``order``: how faces are numbered: ``"size"``, ``"left to right"`` or ``"score"``; given boxes keep
        their order. ``smallest``: faces less high than this, in pixels, are left out.

        ``track``: the images are the frames of a video: a face keeps its index from frame to frame, its window and its
        labels are steadied over time, and all that begins anew where the scene changes. A ``Tracker`` goes on where the
        last call with it ended, for videos that come in pieces.

        ``batch_size``: how many go through the network at a time. ``progress(done, total)``, in images, is called after
        every batch; an exception from it stops the work.

        Raises ``ValueError`` for an empty batch, NaN, a wrong rank or range, ``FileNotFoundError`` for a missing file.
        """
        if isinstance(faces, str) and faces not in ("auto", "image"):
            raise ValueError(f"faces must be 'auto', 'image' or boxes, not {faces!r}")
        if order not in ORDERS:
            raise ValueError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}")
        images = pictures.load(images)
        if batch_size is None:
            batch_size = self._batch_size()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = None if isinstance(faces, str) else from_boxes(faces, sizes)
        looks = self._first_looks(images, batch_size, progress)
        tracker = Tracker() if track is True else track or None
        windows = [look.window for look in looks]
        if faces == "image":
            looks = tracker.calmed(images, looks) if tracker else looks
            return Parsing([look.logits for look in looks], windows, sizes)
        scout = self._scout()

        def tick() -> None:
            if progress:
                progress(len(images), len(images))

        def see(pixels: Tensor) -> Tensor:
            tick()
            return scout(pixels)

        details: list[Details | None] = []
        for start in range(0, len(images), _SCENES_AT_ONCE):
            some, colour = slice(start, start + _SCENES_AT_ONCE), self.checkpoint.mean
            if boxes is None:
                found = search(images[some], see, looks[some], colour)
                found = [_only(one, order, smallest) for one in found]
            else:
                found = settle(images[some], boxes[some], see, looks[some], colour)
                found = [_only(one, "given", smallest) for one in found]
            looks[some], more = self._put_together(images[some], found, tracker, see, batch_size)
            details += more
        without = sum(seen is not None and not seen.faces for seen in details)
        if without:
            _log.info("no face in %d of %d images: nothing but background there", without, len(images))
        return Parsing([look.logits for look in looks], windows, sizes, details=details)

    def _put_together(
        self,
        images: Sequence[Tensor],
        found: Sequence[Found],
        tracker: Tracker | None,
        see: Callable[[Tensor], Tensor],
        batch_size: int,
    ) -> tuple[list[Look], list[Details | None]]:
        """Images put together from the look at the whole and those at the faces that were found; of portraits, which
        have no details, the look at the whole alone."""
        frames = [[framing(face) for face in one.faces] for one in found]
        if tracker:
            again = partial(look_again, see=see, colour=self.checkpoint.mean)
            found, frames, cuts = tracker.follow(images, found, again)
        places = [(i, frame) for i, one in enumerate(found) if not one.portrait for frame in frames[i]]
        seen: list[list[Look]] = [[] for _ in images]
        for batch in _batches([images[i].dtype for i, _ in places], batch_size):
            pieces = [cut(images[places[n][0]], places[n][1], self.resolution, self.checkpoint.mean) for n in batch]
            for n, logits in zip(batch, self._within_memory(torch.stack(pieces)), strict=True):
                i, frame = places[n]
                seen[i].append(Look(logits, frame))
        looks, details = [], []
        for i, (image, one) in enumerate(zip(images, found, strict=True)):
            whole = one.look
            if tracker:
                whole, seen[i] = tracker.steadied(cuts[i], one, seen[i])
            if one.portrait:
                looks.append(whole)
                details.append(None)
            else:
                looks.append(Look(background(whole.logits.device), whole.window))
                details.append(Details(tuple(one.faces), compose(whole, tuple(image.shape[:2]), seen[i])))
        return looks, details

    def _first_looks(
        self, images: Sequence[Tensor], batch_size: int, progress: Callable[[int, int], None] | None
    ) -> list[Look]:
        """What the network makes of the whole of each image."""
        frames = [self._frame(*image.shape[:2]) for image in images]
        looks: list[Look | None] = [None] * len(images)
        done = 0
        # A GPU works by itself: the next images are prepared while it is at it.
        for batch in _batches([(frames[i].size, image.dtype) for i, image in enumerate(images)], batch_size):
            pixels = torch.stack([frames[i].fill(images[i], self.checkpoint.mean) for i in batch])
            for i, logits in zip(batch, self._within_memory(pixels), strict=True):
                looks[i] = Look(logits, frames[i].window(*images[i].shape[:2]))
            done += len(batch)
            if progress:
                progress(done, len(images))
        return looks

    def _scout(self) -> Callable[[Tensor], Tensor]:
        """The network that searches for faces: the small one, whichever parses them."""
        if self.checkpoint.architecture == "lite":
            return self._within_memory
        lite = checkpoints.find("lite")
        network = _shared_network(lite, self.device, PRECISIONS[self.precision])
        return FaceParser(lite, self.device, self.precision, network=network)._within_memory

    def _batch_size(self) -> int:
        """How many images go through the network at a time, if nobody says so."""
        if self.device.type == "cpu":
            return BATCH_ON_CPU
        if self.device.type != "cuda":
            return BATCH_ON_GPU // 2
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(BATCH_ON_GPU, int(0.8 * free) // bytes_per_image(self.resolution, self.precision)))

    def _within_memory(self, pixels: Tensor) -> Tensor:
        """Logits of a batch; in halves, then on the CPU, where the device has not enough memory for it."""
        try:
            return self._logits(_sent(pixels, self.device))
        except RuntimeError as error:
            if self.device.type == "cpu" or not _is_out_of_memory(error):
                raise
        # Here, not above: as long as there is an exception, what it was about stays in memory.
        _empty_cache(self.device)
        if len(pixels) > 1:
            half = (len(pixels) + 1) // 2
            _log.warning("%s has no memory for a batch of %d images: trying %d", self.device, len(pixels), half)
            return torch.cat([self._within_memory(part) for part in pixels.split(half)])
        _log.warning("%s has no memory for a single image of %s: going on on the CPU", self.device, self.resolution)
        on_cpu = FaceParser(self.checkpoint, "cpu", resolution=self.resolution, fit=self.fit)
        return _sent(on_cpu._logits(pixels.cpu()), self.device)

    def _frame(self, height: int, width: int) -> _Frame:
        """How an image of this size is laid out for the network."""
        if self._fixed_size:
            fits = min(self._fixed_size[0] / height, self._fixed_size[1] / width)
            inner = max(1, round(height * fits)), max(1, round(width * fits))
            return _Frame(self._fixed_size, inner if self.fit == "pad" else self._fixed_size)
        side = self.resolution
        nearly_square = max(height, width) <= _STRETCH_UP_TO * min(height, width)
        may_stretch = nearly_square or self.checkpoint.architecture == "transformers"
        if self.fit == "stretch" or (self.fit == "auto" and may_stretch):
            return _Frame((side, side), (side, side))
        # As many pixels as the square has, but nothing longer than twice its side.
        scale = min(side / math.sqrt(height * width), 2 * side / max(height, width))
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        return _Frame(tuple(_STRIDE * math.ceil(length / _STRIDE) for length in inner), inner)

    @torch.inference_mode()
    def _logits(self, pixels: Tensor) -> Tensor:
        """Logits, float32 [B, 19, H/4, W/4], of pixels, uint8 or float [B, H, W, 3]."""
        mean, std = torch.tensor(self.checkpoint.mean), torch.tensor(self.checkpoint.std)
        range_ = 255 if pixels.dtype == torch.uint8 else 1
        # For whole rows of pixels: steps of three values are too small to be quick.
        factor, shift = ((v).repeat(pixels.shape[2]).to(pixels.device) for v in (1 / (range_ * std), -mean / std))
        normalised = torch.addcmul(shift, pixels.flatten(2).float(), factor).to(PRECISIONS[self.precision])
        # Channels-last memory, which is what the image had, under the usual NCHW shape.
        return self.network(normalised.view(pixels.shape).permute(0, 3, 1, 2)).float()


def _only(found: Found, order: str, smallest: float) -> Found:
    """What was found without the faces that are too small, the others in order."""
    faces = arranged(found.faces, order, smallest)
    return replace(found, faces=faces, portrait=found.portrait and len(faces) == len(found.faces))


@dataclass(frozen=True)
class _Frame:
    """The network's input of ``size`` (height, width), in whose middle the image lies, resized to ``inner``."""

    size: tuple[int, int]
    inner: tuple[int, int]

    @property
    def _corner(self) -> tuple[int, int]:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2

    def fill(self, image: Tensor, colour: Sequence[float]) -> Tensor:
        """The image, [H, W, 3], brought into the frame; what it does not cover has the ``colour``, three in 0..1."""
        top, left = self._corner
        return padded(pictures.resize(image, self.inner), left, top, self.size, colour)

    def window(self, height: int, width: int) -> Window:
        """The frame in the pixels of the image, whose size this is."""
        down, across = height / self.inner[0], width / self.inner[1]
        top, left = self._corner
        return Window(-left * across, -top * down, self.size[1] * across, self.size[0] * down)


def bytes_per_image(resolution: int, precision: str) -> int:
    """What an image takes on a GPU while the largest network runs."""
    return 900 * resolution**2 // (1 if precision == "fp32" else 2)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; a GPU fetches them by itself while the caller goes on."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # Metal has no exception of its own for it.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def _empty_cache(device: torch.device) -> None:
    getattr(torch, device.type).empty_cache()


def _batches(kinds: Sequence[object], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches: only what is of one kind goes together."""
    groups: dict[object, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _shared_network(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a checkpoint, loaded by the first who asks; again if its files have changed since."""
    key = (checkpoint.path.resolve(), checkpoint.architecture, str(device), dtype)
    now = stamp(checkpoint.path)
    with _loading:
        known_stamp, network = _networks.get(key, (None, None))
        if known_stamp != now:
            network = ready(checkpoints.load(checkpoint), device, dtype)
            _networks[key] = (now, network)
    return network


def ready(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network, which may be changed, on ``device``, in ``dtype``, in the memory layout that is quickest there."""
    network = network.to(device, dtype, memory_format=torch.channels_last)
    if isinstance(network, (Lite, SegFormer)):
        if device.type == "cpu":
            network.pack()
        elif device.type == "cuda":
            network = Graphed(network)
    return network


def stamp(path: Path) -> tuple:
    """What changes when the files of a checkpoint do: their names, times and sizes."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def unload() -> None:
    """Forget all loaded networks; their memory is free once no parser holds them."""
    with _loading:
        _networks.clear()
