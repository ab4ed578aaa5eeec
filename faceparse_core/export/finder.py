"""Exporting the network that finds faces, for programs that find and frame them as ``faces.finder`` does.

DIR/onnx/model.onnx, DIR/config.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from faceparse_core import __version__
from faceparse_core.errors import expanded
from faceparse_core.export.cards import OURS
from faceparse_core.export.exporting import needed_graphs, require_ours, write_json
from faceparse_core.faces import WEIGHTS
from faceparse_core.models.finder import MARKS, STRIDE, FinderNetwork

# How far the graph's numbers may be from the network's: thousandths of a face's size.
_SAME = 2e-3


def export_finder(out: str | Path, report: Callable[[str], None] = lambda line: None) -> Path:
    """Writes the bundled finder in float32, sides open, into the folder ``out``, and returns the file.

    It is looked at before: what it gives of a picture of noise must be what the network gives. Raises ``ValueError`` if
    it is not, FileExistsError for a folder with other things in it, ImportError without onnx and onnxruntime.
    """
    from safetensors.torch import load_file

    graphs = needed_graphs()
    out = expanded(out).absolute()
    require_ours(out)
    network = FinderNetwork().eval()
    network.load_state_dict(load_file(WEIGHTS))
    file = out / "onnx" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    graphs.build(network).write(part)
    try:
        pixels = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            apart = (network(pixels) - _run(part, pixels)).abs().max().item()
        if not apart < _SAME:
            raise ValueError(f"the finder's graph gives other numbers than the network, {apart:.1g} away: not written")
        # By this name Transformers.js takes it as a network that it has no class for.
        config = {"model_type": "custom", OURS: __version__, "stride": STRIDE, "marks": MARKS}
        write_json(out / "config.json", config)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    report(f"finder  {file.stat().st_size / 1e6:.1f} MB, float32")
    return file


def _run(file: Path, pixels: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
