"""Speed and memory of the engine against the published transformers pipeline: ``python -m benchmarks [--only WORK …]``.

The pipeline is the one of the model's page: processor, model in fp32, upsampling, argmax, one image after the other.
Both sides parse each image as a whole, with the same weights, and give labels at its size, in one process, in turns; a
ratio is the median of those of the pairs. Speed does not depend on the weights: where the published ones are not there,
random ones of the published configuration do. Memory is the peak over that of the process before the run (Linux only).
Quiet the machine first: two busy threads beside these can double every figure.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from faceparse_core import FaceParser, Parsing, checkpoints, masks
from faceparse_core.checkpoints import CheckpointError
from faceparse_core.devices import has_native
from faceparse_core.images import empty
from faceparse_core.models.segformer import SIZES, SegFormer

_CLOSEUP = Path(__file__).parents[1] / "samples" / "closeup.jpg"
_SIDE = 512
_REST = 0.06  # seconds between two works
WORKS = (
    "b5",
    "b5-fp32",
    "b5-frames",
    "b5-4096",
    "lite",
    "lite-onnx",
    "lite-video",
    "lite-bf16",
    "large",
    "busy",
    "refine",
    "runs",
    "start",
    "extras",
    "cuda",
)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("--only", nargs="+", choices=WORKS, default=WORKS, metavar="WORK", help=", ".join(WORKS))
    arguments.add_argument("--pairs", type=int, default=5, help="runs of each side")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--processor", action="store_true", help="its time, not the clock's; take one thread")
    arguments.add_argument("--data", type=Path, help="labelled portraits, for the agreement of bf16 with fp32")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    timing.clock = time.process_time if args.processor else time.perf_counter
    figures = {"machine": _machine()}
    print(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        for work in args.only:
            figures[work] = getattr(bench, work.replace("-", "_"))()
            print(f"{work}: " + "; ".join(f"{name} {value}" for name, value in figures[work].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


class Bench:
    """One method for each work; it returns figures by name."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.pairs, self.data, self.folder = args.pairs, args.data, folder
        self._pipelines: dict[str, Callable] = {}

    @cached_property
    def b5_folder(self) -> Path:
        try:
            return checkpoints.find("segformer-b5").path
        except CheckpointError:
            torch.manual_seed(0)
            return checkpoints.save(SegFormer(SIZES["b5"]), self.folder / "random-b5", dtype=torch.float32)

    def b5(self) -> dict:
        return self._against_transformers(_pictures(1, _SIDE), "auto", share=True)

    def b5_fp32(self) -> dict:
        return self._against_transformers(_pictures(1, _SIDE), "fp32", share=True, equal=True)

    def b5_frames(self) -> dict:
        return self._against_transformers(_pictures(16, 1024), "auto", pairs=max(2, self.pairs // 2))

    def b5_4096(self) -> dict:
        return self._against_transformers(_pictures(1, 4096), "auto")

    def lite(self) -> dict:
        parser, pictures = FaceParser("lite"), _pictures(1, _SIDE)
        seconds = _median(lambda: parser.parse(pictures).labels, 12 * self.pairs)
        return {"precision": parser.precision, "images/s": round(1 / seconds, 1)}

    def lite_onnx(self) -> dict:
        """All that ``parse`` does with a portrait, over the time that ONNX Runtime takes for the network alone."""
        if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
            return {"not measured": "onnx and onnxruntime are not installed"}
        import onnxruntime

        file, pixels = self.folder / "lite.onnx", torch.randn(1, 3, _SIDE, _SIDE)
        network = checkpoints.load(checkpoints.find("lite")).fold()
        torch.onnx.export(network, (pixels,), file, input_names=["pixels"], dynamo=False, opset_version=17)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        parser, picture = FaceParser("lite", "cpu", "fp32"), _pictures(1, _SIDE)
        works = {
            "parse, as an image": lambda: parser.parse(picture, faces="image"),
            "parse, with the search for faces": lambda: parser.parse(picture),
            "ONNX Runtime": lambda: session.run(None, {"pixels": pixels.numpy()}),
        }
        return _in_units("ONNX Runtime", works, 5 * self.pairs)

    def large(self) -> dict:
        """What is rendered of 24 megapixels, in units of a hard mask; and its memory beside the result."""
        parsing, picture = _large()
        works = {
            "hard mask": lambda: parsing.mask("hair"),
            "soft mask": lambda: parsing.mask("hair", soft=True),
            "soft mask of the background": lambda: parsing.mask("background", soft=True),
            "labels": lambda: _rendered_anew(parsing),
            "overlay": lambda: parsing.overlay(picture),
            "as many floats, written": lambda: empty(*picture.shape).fill_(0.5),
        }
        figures = _in_units("hard mask", works, self.pairs)
        return figures | {f"memory, {name}": _peak(work, beside_result=True) for name, work in works.items()}

    def busy(self) -> dict:
        """With two threads while another process keeps a core busy, over one thread alone; in turns."""
        parsing, picture = _large()
        parser, portrait = FaceParser("lite", "cpu"), _pictures(1, _SIDE)
        works = {
            "parse lite, a portrait": lambda: parser.parse(portrait).labels,
            "soft mask": lambda: parsing.mask("hair", soft=True),
            "overlay": lambda: parsing.overlay(picture),
            "hard mask": lambda: parsing.mask("hair"),
        }
        threads, ratios = torch.get_num_threads(), {}
        for name, work in works.items():
            alone, busy = [], []
            for _ in range(self.pairs):
                torch.set_num_threads(1)
                alone.append(_median(work, 7))
                torch.set_num_threads(2)
                with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
                    try:
                        busy.append(_median(work, 7))
                    finally:
                        other.kill()
            ratios[name] = f"{statistics.median(busy) / statistics.median(alone):.2f}x"
        torch.set_num_threads(threads)
        return ratios

    def refine(self) -> dict:
        """Refining the hair of 4096x4096, in units of a hard mask of that size; and its memory beside the result."""
        side = 4096
        parsing, _ = _large((side, side))
        image = torch.from_numpy(_pictures(1, side)[0])
        soft = parsing.mask("hair", soft=True)
        works = {"hard mask": lambda: parsing.mask("hair")}
        for method in ("guided", "network"):
            works[method] = lambda method=method: masks.refine(image, soft, hair=True, method=method)
        figures = _in_units("hard mask", works, self.pairs)
        return figures | {f"memory, {name}": _peak(work, beside_result=True) for name, work in works.items()}

    def lite_video(self) -> dict:
        """Frame by frame: an array in, the mask of the hair out."""
        parser = FaceParser("lite")
        portrait = Image.open(_CLOSEUP)
        frames = []
        for step in range(10):
            frame = Image.new("RGB", (1280, 720), (90, 110, 100))
            frame.paste(portrait.resize((720, 720)), (40 * step, 0))
            frames.append(np.asarray(frame))
        seconds = _median(lambda: [parser.parse(frame).mask("hair") for frame in frames], 12) / len(frames)
        return {"size": "1280x720", "precision": parser.precision, "frames/s": round(1 / seconds, 1)}

    def lite_bf16(self) -> dict:
        if not has_native("bf16"):
            return {"not measured": "this processor has no bf16"}
        if self.data is None:
            return {"not measured": "needs --data"}
        names = (self.data / "val.txt").read_text().split()
        exact, half = FaceParser("lite", "cpu", "fp32"), FaceParser("lite", "cpu", "bf16")
        equal = []
        for name in names:
            image = Image.open(self.data / "images" / f"{Path(name).stem}.jpg").convert("RGB")
            equal.append((exact.parse(image).labels == half.parse(image).labels).float().mean().item())
        return {"pixels equal": round(statistics.mean(equal), 5), "worst picture": round(min(equal), 5)}

    def runs(self) -> dict:
        """Memory after 200 runs over that after 20."""
        parser, pictures = FaceParser("lite"), _pictures(1, _SIDE)
        sizes = []
        for count in (20, 180):
            for _ in range(count):
                parsing = parser.parse(pictures)
                parsing.labels, parsing.mask("hair", soft=True)
            gc.collect()
            sizes.append(timing.memory("VmRSS"))
        if None in sizes:
            return {"not measured": "needs Linux"}
        return {"growth from the 20th to the 200th run": f"{sizes[1] - sizes[0]:.1f} MB"}

    def start(self) -> dict:
        """Loading from a local file over reading it, and what importing costs over torch."""
        weights = self.b5_folder / "model.safetensors"
        checkpoint = checkpoints.find(self.b5_folder)
        read, loaded, ready = [], [], []
        for _ in range(max(5, self.pairs)):
            read.append(timing.seconds(weights.read_bytes))
            loaded.append(timing.seconds(lambda: checkpoints.load(checkpoint)))
            ready.append(timing.seconds(lambda: FaceParser(checkpoint, "cpu")))
            _forget()
        return {
            "reading": f"{statistics.median(read):.3f} s",
            "loading": f"{statistics.median(a / b for a, b in zip(loaded, read, strict=True)):.2f}x that",
            "ready to run": f"{statistics.median(a / b for a, b in zip(ready, read, strict=True)):.2f}x",
            **_imports(),
        }

    def extras(self) -> dict:
        """The published network in other engines, where they are installed: network alone, one image, fp32."""
        installed = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
        if not installed or importlib.util.find_spec("onnx") is None:
            return {"not measured": "onnx with onnxruntime or openvino is not installed"}
        pixels = torch.randn(1, 3, _SIDE, _SIDE)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "b5.onnx"
            torch.onnx.export(
                self._theirs("cpu").model, (pixels,), file, input_names=["pixel_values"], dynamo=False, opset_version=17
            )
            figures = {}
            if "onnxruntime" in installed:
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = torch.get_num_threads()
                session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
                feed = {"pixel_values": pixels.numpy()}
                figures["ONNX Runtime fp32"] = f"{_median(lambda: session.run(None, feed), self.pairs):.2f} s"
            if "openvino" in installed:
                import openvino

                for kind in ("f32", "bf16"):
                    hints = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
                    compiled = openvino.Core().compile_model(file, "CPU", hints)
                    figures[f"OpenVINO {kind}"] = f"{_median(lambda c=compiled: c(pixels.numpy()), self.pairs):.2f} s"
        ours, picture = FaceParser(self.b5_folder, "cpu"), _pictures(1, _SIDE)
        figures[f"ours {ours.precision}"] = f"{_median(lambda: ours.parse(picture, faces='image'), self.pairs):.2f} s"
        return figures

    def cuda(self) -> dict:
        """One image and 32 at once, fp16, against the pipeline on the same GPU."""
        if not torch.cuda.is_available():
            return {"not measured": "there is no CUDA GPU here"}
        latency = self._against_transformers(_pictures(1, _SIDE), "auto", device="cuda", pairs=20, share=True)
        throughput = self._against_transformers(_pictures(32, _SIDE), "auto", device="cuda", share=True)
        exact, half = FaceParser("lite", "cuda", "fp32"), FaceParser("lite", "cuda", "fp16")
        equal = (exact.parse(_CLOSEUP).labels == half.parse(_CLOSEUP).labels).float().mean().item()
        return {
            "GPU": torch.cuda.get_device_name(),
            "1": latency,
            "32": throughput,
            "lite fp16 = fp32": round(equal, 5),
        }

    def _against_transformers(self, pictures, precision, *, device="cpu", pairs=None, share=False, equal=False) -> dict:
        parser, theirs = FaceParser(self.b5_folder, device, precision), self._theirs(device)

        def run_ours():
            return parser.parse(pictures, faces="image").labels

        def run_theirs():
            return [theirs(picture) for picture in pictures]

        parser.parse(pictures[0][:64, :64], faces="image").labels  # noqa: B018
        memory = _peak(run_ours)
        run_theirs()
        ours, others = [], []
        for _ in range(pairs or self.pairs):
            ours.append(timing.seconds(run_ours))
            others.append(timing.seconds(run_theirs))
        seconds = statistics.median(ours) / len(pictures)
        figures = {
            "precision": parser.precision,
            "ours": f"{seconds:.3f} s an image",
            "transformers fp32": f"{statistics.median(others) / len(pictures):.3f} s",
            "ratio": round(statistics.median(b / a for a, b in zip(ours, others, strict=True)), 2),
            "memory": memory,
        }
        if share:
            figures["share of the matrix rate"] = f"{_flops() / seconds / _gemm_rate(parser.precision, device):.0%}"
        if equal:
            differing = run_ours()[0] != run_theirs()[0]
            figures["labels that differ"] = (
                f"{(differing & ~theirs.ties(pictures[0])).sum().item()} of {differing.numel()}"
            )
            figures["more where two logits are equal"] = (differing & theirs.ties(pictures[0])).sum().item()
        return figures

    def _theirs(self, device: str) -> Callable:
        if device not in self._pipelines:
            self._pipelines[device] = Pipeline(self.b5_folder, device)
        return self._pipelines[device]


class Pipeline:
    """The code of the published model's page: an array [H, W, 3] in, labels [H, W] on the CPU out."""

    def __init__(self, folder: Path, device: str):
        import transformers

        transformers.logging.set_verbosity_error()
        self.device = device
        kind = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
        self.processor = kind.from_pretrained(folder)
        self.model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval().to(device)

    def __call__(self, picture: np.ndarray) -> torch.Tensor:
        return self._upsampled(picture).argmax(dim=1)[0].cpu()

    def ties(self, picture: np.ndarray) -> torch.Tensor:
        """Pixels whose two greatest logits are the same but for rounding."""
        upsampled = self._upsampled(picture)[0].cpu()
        first, second = upsampled.topk(2, dim=0).values
        return first - second < 4e-6 * upsampled.abs().max()

    @torch.inference_mode()
    def _upsampled(self, picture: np.ndarray) -> torch.Tensor:
        inputs = self.processor(images=Image.fromarray(picture), return_tensors="pt").to(self.device)
        logits = self.model(**inputs).logits
        size = picture.shape[:2]
        return torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _pictures(count: int, side: int) -> list[np.ndarray]:
    """A portrait, each time a little brighter."""
    portrait = np.asarray(Image.open(_CLOSEUP).convert("RGB").resize((side, side)))
    return [np.minimum(portrait.astype(np.uint16) + step, 255).astype(np.uint8) for step in range(count)]


def _large(size: tuple[int, int] = (4000, 6000)) -> tuple[Parsing, np.ndarray]:
    """A portrait of this size, parsed as a whole and its labels rendered; and the picture."""
    picture = np.asarray(Image.open(_CLOSEUP).convert("RGB").resize(size[::-1]))
    parsing = FaceParser("lite", "cpu").parse(picture, faces="image")
    parsing.labels  # noqa: B018
    return parsing, picture


def _rendered_anew(parsing: Parsing) -> torch.Tensor:
    return Parsing(parsing.logits, parsing.windows, parsing.sizes).labels


def _in_units(unit: str, works: dict[str, Callable], rounds: int) -> dict[str, str]:
    """Of each work its seconds and how many times those of the ``unit``, in turns: medians.

    Threads that have nothing left to do look out for more for a while, at full speed: who comes next waits until they
    sleep.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(_REST)
            seconds[name].append(timing.seconds(work))
    figures = {}
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[unit], strict=True))
        figures[name] = f"{statistics.median(own):.3f} s" + (f", {ratio:.2f}x" if name != unit else "")
    return figures


def _median(function: Callable, count: int) -> float:
    function()
    return statistics.median(timing.seconds(function) for _ in range(count))


def _peak(function: Callable, *, beside_result: bool = False) -> str:
    """How far ``function`` raises this process over what it holds before; and over that and the tensor it returns."""
    if not Path("/proc/self/clear_refs").exists():
        function()
        return "not measured"
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = timing.memory("VmRSS")
    result = function()
    return f"+{timing.memory('VmHWM') - before - (result.nbytes / 1e6 if beside_result else 0):.0f} MB"


def _flops() -> float:
    """Operations of the folded network for one image; two for each multiplication with addition."""
    with torch.device("meta"):
        network, pixels = SegFormer(SIZES["b5"]), torch.empty(1, 3, _SIDE, _SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.fold()(pixels)
    return counter.get_total_flops()


@cache
def _gemm_rate(precision: str, device: str) -> float:
    """Operations a second in a product of large matrices."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _median(lambda: a @ b, 5)


def _forget() -> None:
    from faceparse_core.parser import unload

    unload()
    gc.collect()


def _imports() -> dict:
    """The import of everything that parsing needs, over that of torch alone; pairs of processes, medians."""
    everything = "import faceparse_core; faceparse_core.FaceParser"
    extra = []
    for _ in range(7):
        seconds = []
        for code in ("import torch", f"import torch; {everything}"):
            timed = f"import time; s = time.perf_counter(); {code}; print(time.perf_counter() - s)"
            seconds.append(float(subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True).stdout))
        extra.append(seconds[1] - seconds[0])
    code = f"{everything}; import sys; print('transformers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    return {"import over torch": f"{statistics.median(extra):.3f} s", "transformers imported": loaded}


# What makes a difference here and what torch can tell of it.
_INSTRUCTIONS = {
    "AVX2": torch.cpu._is_avx2_supported,
    "AVX512": torch.cpu._is_avx512_supported,
    "AVX512-VNNI": torch.cpu._is_vnni_supported,
    "AVX512-bf16": torch.cpu._is_avx512_bf16_supported,
    "AMX": torch.cpu._is_amx_tile_supported,
}


def _processor() -> str:
    """Its name; Linux has it in a file of its own."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _machine() -> dict:
    figures = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "instructions": " ".join(name for name, there in _INSTRUCTIONS.items() if there()) or "none that are asked for",
        "torch uses": torch.backends.cpu.get_cpu_capability(),
    }
    for precision in ("fp32", "bf16"):
        rate = f"{_gemm_rate(precision, 'cpu') / 1e9:.0f} GFLOP/s" if has_native(precision) else "only emulated"
        figures[f"GEMM {precision}"] = rate
    return figures


if __name__ == "__main__":
    main()
