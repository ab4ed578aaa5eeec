"""Time, memory and import cost of the bundled model: ``python -m benchmarks.engine [--model lite] [--threads 2]``.

Each figure is taken in a process of its own. Times are medians; quiet the machine first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

_PORTRAIT = Path(__file__).parents[1] / "samples" / "portrait.jpg"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--measure", choices=("image", "memory"), help=argparse.SUPPRESS)
    arguments.add_argument("--precision", default="auto", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.measure:
        figures = {"image": _image, "memory": _memory}[args.measure](args)
        print(json.dumps(figures))
        return
    for precision in ("auto", "fp32"):
        print(f"{args.model}, one 512x512 image, array in, labels out: {_own_process(args, 'image', precision)}")
    print(f"{args.model}, one 4096x4096 image: {_own_process(args, 'memory', 'auto')}")
    print(f"import: {_imports()}")


def _own_process(args, measure: str, precision: str) -> str:
    command = [sys.executable, "-m", "benchmarks.engine", "--measure", measure, "--precision", precision]
    command += ["--model", args.model, "--threads", str(args.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return ", ".join(f"{key} {value}" for key, value in json.loads(done.stdout).items())


def _image(args) -> dict[str, str]:
    import numpy as np
    import torch
    from PIL import Image

    from faceparse_core import FaceParser

    torch.set_num_threads(args.threads)
    image = np.array(Image.open(_PORTRAIT))
    parser = FaceParser(args.model, device="cpu", precision=args.precision)
    times = []
    for _ in range(40):
        start = time.perf_counter()
        parser.parse(image).labels  # noqa: B018
        times.append(time.perf_counter() - start)
    return {"precision": parser.precision, "median": f"{statistics.median(times[5:]) * 1000:.1f} ms"}


def _memory(args) -> dict[str, str]:
    """How far one big image raises the peak over that of a process that has parsed a small one."""
    import resource

    import numpy as np
    import torch

    from faceparse_core import FaceParser

    def peak() -> float:
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / (1e6 if sys.platform == "darwin" else 1e3)

    torch.set_num_threads(args.threads)
    parser = FaceParser(args.model, device="cpu")
    rng = np.random.default_rng(0)
    big = rng.integers(0, 255, (4096, 4096, 3), dtype=np.uint8)
    parser.parse(big[:512, :512]).labels  # noqa: B018
    figures, before = {}, peak()
    start = time.perf_counter()
    parsing = parser.parse(big)
    parsing.labels  # noqa: B018
    figures["labels"] = f"{time.perf_counter() - start:.2f} s, +{peak() - before:.0f} MB"
    start = time.perf_counter()
    parsing.mask("hair", soft=True)
    figures["with a soft mask"] = f"{time.perf_counter() - start:.2f} s, +{peak() - before:.0f} MB"
    return figures


def _imports() -> str:
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
    return f"faceparse_core takes {statistics.median(extra):.3f} s more than torch; transformers imported: {loaded}"


if __name__ == "__main__":
    main()
