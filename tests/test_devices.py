"""Devices and precisions: what a processor only emulates is computed in float32, and said once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faceparse_core.devices import PRECISIONS, choose_device, choose_precision, has_native

# Processors without AVX512 look like this to torch and oneDNN; on such a one nothing changes.
WITHOUT = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_emulated_precision_is_computed_in_float32_with_one_line_of_warning(precision):
    code = (
        "import logging, numpy as np; logging.basicConfig(format='%(message)s')\n"
        "from faceparse_core import FaceParser\n"
        f"parsers = [FaceParser('lite', 'cpu', '{precision}') for _ in range(2)]\n"
        "print(parsers[0].precision, next(iter(parsers[0].parse(np.zeros((64, 64, 3), np.uint8)).logits)).dtype)"
    )
    done = run(code, **WITHOUT)
    assert done.stdout.split() == ["fp32", "torch.float32"]
    assert done.stderr.count(f"has no {precision}") == 1


def test_auto_is_a_precision_that_the_processor_has():
    assert has_native(choose_precision("auto", torch.device("cpu")))
    code = (
        "import torch; from faceparse_core.devices import choose_precision as c; print(c('auto', torch.device('cpu')))"
    )
    assert run(code, **WITHOUT).stdout.strip() == "fp32"


def test_other_devices_are_taken_at_their_word():
    assert choose_precision("auto", torch.device("cuda")) == "fp16"
    for precision in PRECISIONS:
        assert choose_precision(precision, torch.device("cuda")) == precision
    with pytest.raises(ValueError, match="unknown precision 'half'.*bf16"):
        choose_precision("half", torch.device("cpu"))
    with pytest.raises(ValueError, match="there is"):
        choose_device("tpu")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory by rules of their own")
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_what_a_picture_took_is_not_cleared_anew_for_the_next(precision):
    code = (
        "import resource\n"
        "from faceparse_core import FaceParser, images\n"
        "def pages_cleared():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        f"parser, picture = FaceParser('lite', 'cpu', '{precision}'), images.load('samples/closeup.jpg')\n"
        "for _ in range(4):\n"
        "    parser.parse(picture)\n"
        "before = pages_cleared()\n"
        "for _ in range(5):\n"
        "    parser.parse(picture)\n"
        "print(pages_cleared() - before)"
    )
    assert int(run(code).stdout) < 5 * 800  # 3 MB of the 40 and more that there are between the layers
