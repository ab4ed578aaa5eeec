"""Exporting a checkpoint to ONNX, in the layout that Transformers.js and ONNX Runtime expect.

    DIR/onnx/model.onnx            float32
    DIR/onnx/model_fp16.onnx       half precision: WebGPU, GPUs
    DIR/onnx/model_quantized.onnx  weights of 8 bits
    DIR/config.json, DIR/preprocessor_config.json, DIR/README.md

Nothing is written that has not been checked: every file parses real pictures in ONNX Runtime first, and its labels must
be those of the engine.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from faceparse_core import checkpoints
from faceparse_core import images as pictures
from faceparse_core.checkpoints import Checkpoint
from faceparse_core.errors import expanded
from faceparse_core.export.cards import OURS, PRECISIONS, Exported, card, config_of
from faceparse_core.labels import NUM_LABELS
from faceparse_core.models.onnx import OnnxModel
from faceparse_core.parser import FaceParser

# NASA's portrait of Eileen Collins (public domain), and the part of it that her head fills.
_PORTRAIT = Path(__file__).parents[1] / "weights" / "portrait.jpg"
_HEAD = (slice(4, 228), slice(112, 336))
_PORTRAIT_VIEWS = 2
# A check takes at most so many pictures, spread over the folder, at about the size that the network sees.
_MOST_PICTURES = 50
# Half precision ends at 65504. Tensors that come nearer to it on the pictures of the check stay in float32.
_SAFE_IN_HALF = 8192.0
# From this size of a file on, in bytes, the check prefers less memory to speed.
_LARGE = 64 << 20


def export(
    model: str | Path,
    out: str | Path,
    precisions: Sequence[str] = tuple(PRECISIONS),
    *,
    resolution: int | None = None,
    check: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Exported]:
    """Exports a Lite or SegFormer checkpoint into the folder ``out`` and returns what was made.

    ``precisions``: some of ``PRECISIONS``. ``resolution`` fixes the sides of the input, in pixels, a multiple of 32;
    without it they are open. ``check``: a folder of pictures, or one picture, to check with, beside the portrait in the
    package. ``report`` is called with each line for the user.

    What does not pass is not written. The files get their names when all are whole; those of an earlier export in
    ``out`` are replaced, those of other precisions removed. Raises ValueError for a bad argument or a checkpoint of
    another architecture, FileExistsError for a folder with other things in it, ImportError without onnx and
    onnxruntime, and what ``checkpoints.find`` raises.
    """
    needed_graphs()  # the extras that are missing are missed at once
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        raise ValueError(f"unknown precision {unknown or precisions}: choose from {', '.join(PRECISIONS)}")
    if resolution is not None and (resolution < 32 or resolution % 32):
        raise ValueError(f"the resolution must be a multiple of 32, such as 512, not {resolution}")
    out = expanded(out).absolute()
    require_ours(out)
    checkpoint = checkpoints.find(model)
    if checkpoint.architecture not in ("lite", "segformer"):
        kind = "an ONNX file already" if checkpoint.architecture == "onnx" else "of another architecture"
        raise ValueError(f"{checkpoint.path} is {kind}: only weights of lite and SegFormer are exported")

    with _memory_given_back(), _unfinished(out) as folder:
        trial = _Trial(checkpoint, resolution, _check_pictures(check))
        report(f"{checkpoint.name}, checked on {trial.scope}; torch takes {trial.seconds * 1e3:.0f} ms a picture")
        results = []
        for precision in dict.fromkeys(precisions):
            file = folder / "onnx" / PRECISIONS[precision].file
            config = _write(checkpoint, resolution, precision, file)
            if precision == "fp16":
                large = trial.large_tensors(file.with_name("peaks.onnx"))
                if large:
                    _write(checkpoint, resolution, precision, file, large)
            results.append(trial.run(precision, file))
            report(_line(results[-1]))
            if not results[-1].passed:
                file.unlink()
        passed = [result for result in results if result.passed]
        if passed:
            side = resolution or checkpoint.resolution
            write_json(folder / "config.json", config)
            preprocessor = checkpoints.preprocessor_config(side, checkpoint.mean, checkpoint.std)
            preprocessor["feature_extractor_type"] = "SegformerFeatureExtractor"  # what older versions look for
            write_json(folder / "preprocessor_config.json", preprocessor)
            (folder / "README.md").write_text(card(checkpoint, passed, resolution, trial.scope), encoding="utf-8")
            _move(folder, out)
    return results


# ---------------------------------------------------------------------------------------------- the graph and its check


def _write(checkpoint: Checkpoint, resolution: int | None, form: str, file: Path, exact: Collection[str] = ()) -> dict:
    """Writes the graph in a precision, or with its "peaks", and returns the config. ``exact``: see ``graphs.halved``.

    The network is loaded for this and gone afterwards: beside a session of onnxruntime there is no room for it.
    """
    graphs = needed_graphs()
    gc.collect()
    network = checkpoints.load(checkpoint, trainable=True)
    graph = graphs.build(network, resolution)
    if form == "fp16":
        graph = graphs.halved(graph, exact)
    elif form == "int8":
        graph = graphs.with_small_weights(graph)
    elif form == "peaks":
        graph = graphs.with_peaks(graph)
    graph.write(file)
    return config_of(checkpoint, network)


class _Trial:
    """The pictures of the check and what the engine makes of them."""

    def __init__(self, checkpoint: Checkpoint, resolution: int | None, sources: Sequence[Tensor | Path]):
        self.checkpoint, self.resolution = checkpoint, resolution
        self.pictures = [_shrunk(pictures.load(source)[0], checkpoint.resolution) for source in sources]
        self.labels, self.seconds = self._parse(checkpoint, checkpoints.load(checkpoint))

    @property
    def scope(self) -> str:
        """How much the check saw, in words."""
        own = len(self.pictures) - _PORTRAIT_VIEWS
        return f"{own} pictures and the portrait in the package" if own else "the portrait in the package"

    def run(self, precision: str, file: Path) -> Exported:
        labels, seconds = self._parse(self._onnx(file), _session(file))
        equal = [(ours == theirs).sum().item() for ours, theirs in zip(labels, self.labels, strict=True)]
        pixels = [theirs.numel() for theirs in self.labels]
        worst = min(part / whole for part, whole in zip(equal, pixels, strict=True))
        return Exported(precision, file.stat().st_size, sum(equal) / sum(pixels), worst, seconds)

    def large_tensors(self, file: Path) -> set[str]:
        """The tensors that come near the end of half precision on some of the pictures. ``file`` is scratch."""
        _write(self.checkpoint, self.resolution, "peaks", file)
        network = _Peaks(_session(file))
        file.unlink()
        self._parse(self._onnx(file), network)
        return {name for name, peak in network.peaks.items() if not peak < _SAFE_IN_HALF}

    def _onnx(self, file: Path) -> Checkpoint:
        return replace(self.checkpoint, path=file, architecture="onnx")

    def _parse(self, checkpoint: Checkpoint, network: nn.Module) -> tuple[list[Tensor], float]:
        """The labels of all pictures, and the seconds that one more parse takes."""
        fit = "stretch" if self.resolution else "auto"
        parser = FaceParser(checkpoint, "cpu", "fp32", resolution=self.resolution, fit=fit, network=network)
        labels = [parser.parse(picture).labels[0] for picture in self.pictures]
        start = time.perf_counter()
        parser.parse(self.pictures[0])
        return labels, time.perf_counter() - start


def _session(file: Path) -> OnnxModel:
    return OnnxModel(file, range(NUM_LABELS), save_memory=file.stat().st_size > _LARGE)


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Lets the C library hand every large block back to the system as soon as it is freed.

    Otherwise glibc keeps what it thinks will be needed again: each step here needs other blocks, and the peak of a
    large export would be half as high again. (-3 is M_MMAP_THRESHOLD; 32 MB is what it grows to by itself.)
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(-3, 128 << 10)
    try:
        yield
    finally:
        if set_option is not None:
            set_option(-3, 32 << 20)


class _Peaks(nn.Module):
    """A graph ``with_peaks`` in the place of the network; remembers the largest magnitude of each tensor."""

    def __init__(self, model: OnnxModel):
        super().__init__()
        self.session = model.session
        self.names = [output.name for output in self.session.get_outputs()]
        self.peaks: dict[str, float] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        logits, *peaks = self.session.run(self.names, {"pixel_values": pixels.contiguous().numpy()})
        for name, peak in zip(self.names[1:], peaks, strict=True):
            tensor = name.removesuffix(" peak")
            self.peaks[tensor] = max(self.peaks.get(tensor, 0.0), float(peak))
        return torch.from_numpy(logits)


def _check_pictures(check: str | Path | None) -> list[Tensor | Path]:
    """The portrait, whole and its head alone, and the pictures at ``check``."""
    portrait = pictures.load(_PORTRAIT)[0]
    sources: list[Tensor | Path] = [portrait, portrait[_HEAD]]
    if check is None:
        return sources
    path = expanded(check)
    if not path.is_dir():
        return [*sources, path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in pictures.SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{path} holds no pictures to check with ({', '.join(pictures.SUFFIXES)})")
    return sources + found[:: math.ceil(len(found) / _MOST_PICTURES)]


def _shrunk(picture: Tensor, side: int) -> Tensor:
    """The picture with no side longer than this, so that many of them can be kept."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return pictures.resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _line(result: Exported) -> str:
    needed = PRECISIONS[result.precision].agreement
    verdict = "" if result.passed else f"  FAILED: {needed:.2%} are needed; not written"
    return (
        f"{result.file:<26} {result.size / 1e6:6.1f} MB  {result.seconds * 1e3:5.0f} ms  "
        f"labels {result.agreement:.3%} equal, {result.worst:.3%} in the worst picture{verdict}"
    )


# ---------------------------------------------------------------------------------------------- files


def require_ours(out: Path) -> None:
    """Nobody's model card or config is overwritten: the folder is new, empty, or an earlier export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder to export into")
    config = out / "config.json"
    try:
        ours = config.is_file() and OURS in json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        ours = False
    if not ours and any(out.iterdir()):
        raise FileExistsError(f"{out} holds other things than an earlier export; give a new folder")


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that is gone afterwards, whatever happens."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.part")
    (folder / "onnx").mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    """Moves what is in ``folder`` into ``out``, file by whole file, the graphs before what describes them."""
    if not out.exists():
        os.rename(folder, out)
        return
    (out / "onnx").mkdir(exist_ok=True)
    for kind in PRECISIONS.values():
        new, old = folder / "onnx" / kind.file, out / "onnx" / kind.file
        if new.exists():
            os.replace(new, old)
        else:
            old.unlink(missing_ok=True)
    for name in ("config.json", "preprocessor_config.json", "README.md"):
        os.replace(folder / name, out / name)


def write_json(file: Path, data: dict) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def needed_graphs():
    """The module that writes graphs: it needs onnx, which is an extra."""
    try:
        import onnxruntime  # noqa: F401

        from faceparse_core.export import graphs
    except ImportError as error:
        raise ImportError(f'exporting needs onnx and onnxruntime ({error}): pip install "faceparse[export]"') from error
    return graphs
