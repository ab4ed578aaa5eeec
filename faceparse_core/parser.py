"""FaceParser: a loaded checkpoint on a device, in a precision; images in, a Parsing out."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from faceparse_core import checkpoints
from faceparse_core import images as pictures
from faceparse_core.checkpoints import Checkpoint
from faceparse_core.devices import PRECISIONS, choose_device, choose_precision, keep_memory, placed
from faceparse_core.errors import CheckpointError, enough_memory, explained, number, said
from faceparse_core.faces import (
    ORDERS,
    Face,
    Finder,
    Found,
    Framed,
    Layout,
    Look,
    Seen,
    Tracker,
    are_shown,
    arranged,
    background,
    compose,
    cuts,
    framed,
    from_boxes,
    layout,
)
from faceparse_core.images import Images
from faceparse_core.models import LARGEST_SIDE
from faceparse_core.models.cuda_graphs import Graphed
from faceparse_core.models.lite import Lite
from faceparse_core.models.onnx import choose_device as onnx_device
from faceparse_core.models.segformer import SegFormer
from faceparse_core.parsing import Details, Parsing
from faceparse_core.rendering import paced

FITS = ("auto", "stretch", "pad")
_STRIDE = 32  # input sizes are multiples of it
# Where faces have windows of their own, what is left to the look at the whole is large: it takes a side of this share,
# unless its network is shown nothing but the squares that it was trained with.
_BESIDE_FACES = 0.75

# More on a CPU are slower: they do not stay in its cache.
BATCH_ON_CPU, BATCH_ON_GPU = 2, 32

# So many images go from step to step together.
_IMAGES_AT_ONCE = 16

_log = logging.getLogger("faceparse")
_networks: dict[tuple, tuple[object, nn.Module]] = {}
_loading = threading.Lock()


class FaceParser:
    """Parses images with one checkpoint.

    ``model``: ``"auto"``, a known name (``faceparse models`` lists them), a folder, a ``.safetensors`` or an ``.onnx``
    file.
    ``device``: ``"auto"`` (cuda, mps, xpu, cpu: the first that is there; for ONNX files cuda where onnxruntime has it,
    else cpu) or a torch device.
    ``precision``: ``"auto"`` (fp16 on cuda, bf16 on CPUs with AMX or AVX512-bf16, else fp32), ``"fp32"``, ``"bf16"`` or
    ``"fp16"``; what a CPU would only emulate is computed in fp32, with a warning; an ONNX file computes in its own and
    takes ``"auto"`` alone.
    ``resolution``: side of the square that the network sees, a multiple of 32; the checkpoint's own (512) if not given.
    ``fit``: ``"stretch"`` brings every image to that square, as the model was trained; ``"pad"`` keeps the aspect ratio
    over about as many pixels; ``"auto"`` stretches what is nearly square and pads the rest (and stretches everything
    for architectures other than SegFormer and Lite, and for ONNX files of a fixed size: many take no other size). Where
    faces are seen by themselves, all around them is looked at with three quarters of that side, unless it is stretched.
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
        name = f"resolution, a multiple of {_STRIDE} such as 512,"
        if number(name, self.resolution, _STRIDE, LARGEST_SIDE, whole=True) % _STRIDE:
            raise ValueError(f"resolution must be a multiple of {_STRIDE}, such as 512, not {resolution!r}")
        if network is None:
            network = _shared_network(self.checkpoint, self.device, PRECISIONS[self.precision])
        self.network = network
        self._makes_sense = False
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

    @enough_memory("the pictures cannot be parsed")
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
        it; else it parses each face in a window of its own; where there is none, it keeps what is seen in the whole
        picture. Or the faces' boxes, a list of ``(x, y, width, height)`` or ``{"x": …, "y": …, "width": …,
        "height": …}`` for each image. ``order``: how faces are numbered: ``"size"``, ``"left to right"`` or
        ``"score"``; given boxes keep their order. ``smallest``: faces less high than this, in pixels, are left out.

        ``track``: the images are the frames of a video: a face keeps its index from frame to frame, its window and its
        labels are steadied over time, and all that begins anew where the scene changes. A ``Tracker`` goes on where the
        last call with it ended, for videos that come in pieces.

        ``batch_size``: how many go through the network at a time. ``progress(done, total)``, in images, is called after
        every batch, also of the search for faces; an exception from it stops the work.

        Raises ``ValueError`` for an empty batch, NaN, a wrong rank or range, ``FileNotFoundError`` for a missing file,
        ``CheckpointError`` for a network that cannot be run, ``MemoryError`` where there is too little memory.
        """
        # load: whatever is given, as a list of images
        images = pictures.load(images)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        given = _given(faces, order, sizes)
        number("smallest", smallest, 0)
        if not isinstance(track, (bool, Tracker)):
            raise ValueError(f"track must be True, False or a Tracker, not {said(repr(track))}")
        batch_size = self._batch_size() if batch_size is None else number("batch_size", batch_size, 1, whole=True)
        tracker = Tracker() if track is True else track or None
        told = _Progress(progress, len(images))
        looks: list[Look] = []
        details: list[Details | None] = []
        at_once = max(batch_size, _IMAGES_AT_ONCE)
        for start in range(0, len(images), at_once):
            some = slice(start, start + at_once)
            # find: the faces of each image
            found = self._find(images[some], given if isinstance(given, str) else given[some], batch_size, told)
            found = [_chosen(one, order if given == "auto" else "given", smallest) for one in found]
            # follow: the same faces from frame to frame
            if tracker:
                found = tracker.follow(images[some], found, None if given == "image" else self._finder)
            # frame: which images are portraits, and the windows of faces in all others
            frames = [framed(one, size) for one, size in zip(found, sizes[some], strict=True)]
            # see: the network, on whole images and windows
            seen = self._see(images[some], frames, batch_size, told)
            # steady: what was seen, calmed by the frames before
            if tracker:
                seen = tracker.steadied(frames, seen)
            # compose: whole images and windows into one picture of each
            for frame, its, size in zip(frames, seen, sizes[some], strict=True):
                look, of_faces = _composed(frame, its, size)
                looks.append(look)
                details.append(_numbered(frame, of_faces, tracker))
        without = sum(one is not None and not one.faces for one in details)
        if without:
            _log.info("no face in %d of %d images: what is seen in the whole picture stays", without, len(images))
        return Parsing([look.logits for look in looks], [look.window for look in looks], sizes, details=details)

    @cached_property
    def _finder(self) -> Finder:
        return Finder.bundled(self.device, self.precision)

    def _find(
        self, images: Sequence[Tensor], given: str | Sequence[Sequence[Face]], batch_size: int, told: _Progress
    ) -> list[Found]:
        """The faces of images: none of portraits (``given`` is "image"), those that are given, or what is found."""
        if given == "image":
            return [Found([], portrait=True) for _ in images]
        found: list[Found] = []
        for start in range(0, len(images), batch_size):
            some = slice(start, start + batch_size)
            if isinstance(given, str):
                found += [Found(faces) for faces in self._finder.find(images[some])]
            else:
                found += [self._settled(image, boxes) for image, boxes in zip(images[some], given[some], strict=True)]
            told.more(0)
        return found

    def _settled(self, image: Tensor, boxes: Sequence[Face]) -> Found:
        """Faces whose boxes are known, with their tilt and exact box as they are seen; else as they are given."""
        seen = self._finder.find_near(image, boxes)
        faces = [replace(one, score=box.score) if one else box for one, box in zip(seen, boxes, strict=True)]
        return Found(faces, portrait=False, others=False)

    def _see(self, images: Sequence[Tensor], frames: Sequence[Framed], batch_size: int, told: _Progress) -> list[Seen]:
        """What the network makes of images as they are framed: of the whole of each, and of its faces."""
        wholes: dict[int, Look] = {}
        layouts = [
            self._layout(image.shape[0], image.shape[1], beside_faces=bool(frame.windows))
            for image, frame in zip(images, frames, strict=True)
        ]
        # A GPU works by itself: the next images are prepared while it is at it.
        kinds = {i: (layout.size, image.dtype) for i, (layout, image) in enumerate(zip(layouts, images, strict=True))}
        for batch in _batches(kinds, batch_size):
            pixels = torch.stack([layouts[i].fill(images[i], self.checkpoint.mean) for i in batch])
            for i, logits in zip(batch, self._within_memory(pixels), strict=True):
                wholes[i] = Look(logits, layouts[i].window(*images[i].shape[:2]))
            told.more(len(batch))
        places = [(i, window) for i, frame in enumerate(frames) for window in frame.windows]
        details: list[list[Look]] = [[] for _ in images]
        for batch in _batches({n: images[i].dtype for n, (i, _) in enumerate(places)}, batch_size):
            some = [(images[i], window) for i, window in (places[n] for n in batch)]
            pieces = cuts(some, self.resolution, self.checkpoint.mean)
            for n, logits in zip(batch, self._within_memory(pieces), strict=True):
                i, window = places[n]
                details[i].append(Look(logits, window))
            told.more(0)
        return [Seen(wholes[i], details[i]) for i in range(len(images))]

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
            with explained(f"{self.checkpoint.path} cannot be run", CheckpointError):
                logits = self._logits(_sent(pixels, self.device))
                if not self._makes_sense:  # looked at once where a look makes a GPU wait
                    if not logits.sum().isfinite():
                        raise ValueError("what it gives is no numbers (NaN or infinite)")
                    self._makes_sense = self.device.type != "cpu"
                return logits
        except MemoryError:
            if self.device.type == "cpu":
                raise
        # Here, not above: as long as there is an exception, what it was about stays in memory.
        _empty_cache(self.device)
        if len(pixels) > 1:
            half = (len(pixels) + 1) // 2
            _log.warning("%s has no memory for a batch of %d images: trying %d", self.device, len(pixels), half)
            return torch.cat([self._within_memory(part) for part in pixels.split(half)])
        _log.warning("%s has no memory for a single image of %s: going on on the CPU", self.device, self.resolution)
        on_cpu = FaceParser(self.checkpoint, "cpu", resolution=self.resolution, fit=self.fit)
        return _sent(on_cpu._within_memory(pixels.cpu()), self.device)

    def _layout(self, height: int, width: int, beside_faces: bool = False) -> Layout:
        """How an image of this size is laid out for the network: all that is seen of it, or what is ``beside_faces``
        that are seen by themselves."""
        if self._fixed_size:
            fits = min(self._fixed_size[0] / height, self._fixed_size[1] / width)
            inner = max(1, round(height * fits)), max(1, round(width * fits))
            return Layout(self._fixed_size, inner if self.fit == "pad" else self._fixed_size)
        if self.fit == "stretch" or (self.fit == "auto" and self.checkpoint.architecture == "transformers"):
            return layout(height, width, self.resolution, "stretch")
        share = _BESIDE_FACES if beside_faces else 1
        return layout(height, width, _STRIDE * math.ceil(share * self.resolution / _STRIDE), self.fit)

    @torch.inference_mode()
    def _logits(self, pixels: Tensor) -> Tensor:
        """Logits, float32 [B, 19, H/4, W/4], of pixels, uint8 or float [B, H, W, 3]."""
        mean, std = torch.tensor(self.checkpoint.mean), torch.tensor(self.checkpoint.std)
        range_ = 255 if pixels.dtype == torch.uint8 else 1
        # For whole rows of pixels: steps of three values are too small to be quick.
        factor, shift = ((v).repeat(pixels.shape[2]).to(pixels.device) for v in (1 / (range_ * std), -mean / std))
        normalised = torch.addcmul(shift, pixels.flatten(2).float(), factor).to(PRECISIONS[self.precision])
        # Channels-last memory, which is what the image had, under the usual NCHW shape.
        normalised = normalised.view(pixels.shape).permute(0, 3, 1, 2)
        ours = isinstance(self.network, (Lite, SegFormer))  # others may have threads of their own
        return (paced(self.network, normalised) if ours else self.network(normalised)).float()


# ---------------------------------------------------------------------------------------------- steps of ``parse``


def _given(faces: str | Sequence, order: str, sizes: Sequence[tuple[int, int]]) -> str | list[list[Face]]:
    """``faces`` as ``parse`` takes them, checked: "auto", "image", or of each image those that somebody knows."""
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}")
    if not isinstance(faces, str):
        return from_boxes(faces, sizes)
    if faces not in ("auto", "image"):
        raise ValueError(f"faces must be 'auto', 'image' or boxes, not {faces!r}")
    return faces


def _chosen(found: Found, order: str, smallest: float) -> Found:
    """What was found without the faces that are too small, the others in order."""
    faces = arranged(found.faces, order, smallest)
    if len(faces) == len(found.faces):
        return replace(found, faces=faces)
    return replace(found, faces=faces, portrait=False, others=False)  # or what is left out would be back without a face


def _composed(frame: Framed, seen: Seen, size: tuple[int, int]) -> tuple[Look, Details | None]:
    """What is kept of an image (height, width): of a portrait, and where there is no face, the look at the whole of it;
    else background, with what was seen of its faces over it. Faces are those of which the network sees something."""
    if frame.portrait and not frame.faces:
        return seen.whole, None
    faces, details = frame.faces, seen.details
    if frame.others:  # nobody but the finder says that there are faces
        shown = are_shown(faces, details or [seen.whole] * len(faces))
        faces = [face for face, there in zip(faces, shown, strict=True) if there]
        details = [detail for detail, there in zip(details, shown, strict=bool(details)) if there]
    if not details and frame.others:
        return seen.whole, Details(tuple(faces))
    whole = Look(background(seen.whole.logits.device), seen.whole.window)
    return whole, Details(tuple(faces), compose(seen.whole, size, details, frame.others))


def _numbered(frame: Framed, details: Details | None, tracker: Tracker | None) -> Details | None:
    """What is kept of an image's faces with their numbers: what turned out to be no face has none."""
    shown = details.faces if details else ()
    numbered = tracker.numbered(frame, shown) if tracker else arranged(shown, "given", 0)
    return details and replace(details, faces=tuple(numbered))


class _Progress:
    """Tells how many images have been seen; called between batches, so that an exception stops the work."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int):
        self._progress, self._done, self._total = progress, 0, total

    def more(self, images: int) -> None:
        self._done += images
        if self._progress:
            self._progress(self._done, self._total)


# ---------------------------------------------------------------------------------------------- networks


def bytes_per_image(resolution: int, precision: str) -> int:
    """What an image takes on a GPU while the largest network runs."""
    return 900 * resolution**2 // (1 if precision == "fp32" else 2)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; a GPU fetches them by itself while the caller goes on."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _empty_cache(device: torch.device) -> None:
    getattr(torch, device.type).empty_cache()


def _batches(kinds: Mapping[int, object], batch_size: int) -> Iterator[list[int]]:
    """Numbers in batches: only what is of one kind goes together."""
    groups: dict[object, list[int]] = {}
    for index, kind in kinds.items():
        groups.setdefault(kind, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _shared_network(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a checkpoint, loaded by the first who asks; again if its files have changed since."""
    key = (checkpoint.path.resolve(), checkpoint.architecture, str(device), dtype)
    now = stamp(checkpoint.path)
    with _loading:
        if key not in _networks or _networks[key][0] != now:
            _networks[key] = now, ready(checkpoints.load(checkpoint), device, dtype)
        return _networks[key][1]


def ready(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network, which may be changed, on ``device``, in ``dtype``, in the memory layout that is quickest there."""
    network = placed(network, device, dtype)
    if isinstance(network, (Lite, SegFormer)):
        if device.type == "cpu":
            keep_memory()
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
