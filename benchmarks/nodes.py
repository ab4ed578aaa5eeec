"""What the ComfyUI nodes cost over the engine: ``python -m benchmarks.nodes``; ComfyUI itself is not needed.

Parse Face on 16 frames of 512x512, and the same through ``faceparse_core`` alone: parsing, the mask of the face and the
overlay. Then on one picture of 24 megapixels with nothing but ``parsing`` connected, against ``parse``. In pairs within
one process; the median of the ratios. Over the stand-in for ComfyUI that the tests use.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.timing import seconds
from faceparse_core import FaceParser, images

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=9)
    arguments.add_argument("--threads", type=int, default=2)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    node = _parse_face()
    frames = images.load(_ROOT / "samples" / "closeup.jpg")[0][None].repeat(16, 1, 1, 1) / 255
    parser = FaceParser("lite", device="cpu")

    def by_nodes() -> None:
        _, face, overlay = node.execute(frames, "lite", "empty mask").args
        face.sum(), overlay.sum()  # they are made when somebody looks at them

    def by_engine() -> None:
        parsing = parser.parse(frames)
        parsing.mask("face").sum(), parsing.overlay(frames).sum()

    ratio = _ratio(by_nodes, by_engine, args.pairs)
    print(f"Parse Face, 16 frames of 512x512, lite: {ratio:.3f} times the engine's time")
    large = images.resize(frames[0], (4000, 6000))[None]
    ratio = _ratio(lambda: node.execute(large, "lite", "empty mask"), lambda: parser.parse(large), args.pairs)
    print(f"Parse Face, 6000x4000, lite, only `parsing` connected: {ratio:.3f} times the time of `parse`")


def _ratio(nodes: Callable[[], object], engine: Callable[[], object], pairs: int) -> float:
    engine(), nodes()
    return statistics.median(seconds(nodes) / seconds(engine) for _ in range(pairs))


def _parse_face():
    """The node class of Parse Face, loaded as ComfyUI loads a pack."""
    sys.path.insert(0, str(_ROOT / "tests" / "comfy_standin"))
    from server import PromptServer

    PromptServer.instance = SimpleNamespace(send_progress_text=lambda text, node_id: None)
    spec = importlib.util.spec_from_file_location("faceparse_pack", _ROOT / "__init__.py")
    sys.modules[spec.name] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    node = next(node for node in nodes if node.define_schema().node_id == "FaceParseParseFace")
    node.hidden = SimpleNamespace(unique_id="1")
    return node


if __name__ == "__main__":
    main()
