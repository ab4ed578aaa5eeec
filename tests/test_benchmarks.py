"""The benchmarks run, and say what they did not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from faceparse_core.devices import has_native


def test_what_cannot_be_measured_is_said_and_figures_are_written(tmp_path):
    file = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--pairs",
        "1",
        "--only",
        "lite",
        "lite-bf16",
        "cuda",
        "--json",
        str(file),
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], capture_output=True)
    figures = json.loads(file.read_text())
    assert figures["lite"]["images/s"] > 0
    why = "needs --data" if has_native("bf16") else "this processor has no bf16"
    assert figures["lite-bf16"] == {"not measured": why}
    assert has_native("bf16") or figures["machine"]["GEMM bf16"] == "only emulated"
    assert torch.cuda.is_available() or "not measured" in figures["cuda"]
