"""Exports to ONNX: ``python -m benchmarks.onnx [DATA]``, and with ``--b5`` a network of the published size.

With labelled portraits (DATA/val.txt): mean F1 of the bundled model in PyTorch and in every precision, and the share of
pixels that keep their label. ``--b5`` exports a SegFormer-B5 with random weights in a process of its own and gives its
peak memory against the size of the weights, and the time of its graph in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from faceparse_core import FaceParser, checkpoints
from faceparse_core.export import PRECISIONS, export
from faceparse_core.models.segformer import SIZES, SegFormer
from faceparse_core.training.data import read_names, read_pair
from faceparse_core.training.metrics import Confusion

_DATA = Path("../shared/data/celebamask-mini")
# Run as a program: it exports and says what its memory was at most, in bytes. Linux alone tells; getrusage would not
# do, since a process takes over the figure of the one that started it.
_MEASURED = """
import re, sys
from faceparse_core.export import export
export(sys.argv[1], sys.argv[2], sys.argv[3:], report=print)
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="?", default=_DATA)
    arguments.add_argument("--b5", action="store_true")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.b5:
            _published_size(Path(folder))
        else:
            _bundled(Path(folder) / "lite", args.data)


def _bundled(folder: Path, data: Path) -> None:
    results = export("lite", folder)
    pairs = [read_pair(data, name) for name in read_names(data, "val")]
    labels, f1, _ = _measure(FaceParser("lite", "cpu", "fp32"), pairs)
    print(f"{len(pairs)} portraits; mean F1 without background, labels as in PyTorch, milliseconds for a picture")
    print(f"{'PyTorch fp32':<14}             F1 {f1:.4f}")
    for result in results:
        found, score, seconds = _measure(FaceParser(folder / result.file), pairs)
        same = statistics.mean((a == b).float().mean().item() for a, b in zip(labels, found, strict=True))
        print(
            f"{'ONNX ' + result.precision:<14} {result.size / 1e6:6.1f} MB   F1 {score:.4f} ({score - f1:+.4f})   "
            f"labels {same:.3%}   {seconds * 1e3:.0f} ms"
        )


def _measure(parser: FaceParser, pairs) -> tuple[list[torch.Tensor], float, float]:
    """The labels of all portraits, mean F1 without background, the median time of a parse with its labels."""
    confusion, labels, times = Confusion(), [], []
    parser.parse(pairs[0][0])
    for image, mask in pairs:
        start = time.perf_counter()
        labels.append(parser.parse(image).labels[0])
        times.append(time.perf_counter() - start)
        confusion.add(torch.from_numpy(mask), labels[-1])
    return labels, confusion.mean_f1, statistics.median(times)


def _published_size(folder: Path) -> None:
    torch.manual_seed(0)
    network = SegFormer(SIZES["b5"]).eval()
    torch.nn.init.normal_(network.head.classifier.weight, std=0.3)  # so that labels differ by more than roundings
    source = checkpoints.save(network, folder / "b5", dtype=torch.float32)
    weights = (source / "model.safetensors").stat().st_size
    for precision in PRECISIONS:
        program = [sys.executable, "-c", _MEASURED, str(source), str(folder / precision), precision]
        *lines, peak = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
        print(lines[-1])
        print(f"peak memory {int(peak) / 1e6:.0f} MB, {int(peak) / weights:.2f} times the weights")
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "fp32/onnx/model.onnx", providers=["CPUExecutionProvider"])
    pixels, times = np.zeros((1, 3, 512, 512), np.float32), []
    for _ in range(6):
        start = time.perf_counter()
        session.run(["logits"], {"pixel_values": pixels})
        times.append(time.perf_counter() - start)
    print(f"ONNX Runtime, float32, one 512x512 picture: {statistics.median(times[1:]):.2f} s")


if __name__ == "__main__":
    main()
