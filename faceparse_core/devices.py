"""Where to compute and in which precision: what this machine has, and what is meant by "auto"."""

from __future__ import annotations

import logging
import platform
from functools import cache
from typing import TypeVar

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# glibc counts no block that is larger, and what it needs beside the block itself.
_LARGEST_COUNTED, _BESIDE = 32 << 20, 8 << 10

_log = logging.getLogger("faceparse")
_Network = TypeVar("_Network", bound=nn.Module)


def choose_device(device: str | torch.device) -> torch.device:
    """The torch device that is meant; ``"auto"`` is the first of cuda, mps, xpu, cpu that is there.

    Raises ``ValueError`` for a device that this machine or this torch does not have.
    """
    there = [
        name
        for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps), ("xpu", torch.xpu))
        if module.is_available()
    ]
    there.append("cpu")
    if device == "auto":
        return torch.device(there[0])
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device '{device}': here there is {', '.join(there)}, or auto") from error
    if chosen.type not in there or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"there is no device '{device}' here, but {', '.join(there)}; 'auto' takes the first")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """``"fp32"``, ``"bf16"`` or ``"fp16"``; ``"auto"`` is fp16 on cuda, bf16 on x86 CPUs that multiply in
    it (AMX, AVX512-bf16), else fp32.

    A precision that this processor only emulates (see ``has_native``) is fp32, with a warning: emulated products take
    a hundred times as long. Raises ``ValueError`` for an unknown one.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and _is_quick_in_bf16() else "fp32"
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}': choose auto, {', '.join(PRECISIONS)}")
    if device.type == "cpu" and not has_native(precision):
        _warn_of_emulation(precision)
        return "fp32"
    return precision


def _is_quick_in_bf16() -> bool:
    """Measured: lite takes 0.6 of its time in float32 with AVX512-bf16 alone, and less with AMX. Of Arm nothing is."""
    return has_native("bf16") and torch.cpu._is_avx512_bf16_supported()


def placed(network: _Network, device: torch.device | None = None, dtype: torch.dtype | None = None) -> _Network:
    """The network, changed: on ``device`` and in ``dtype`` where they are given, and with channels-last memory, which
    is quickest for convolutions."""
    moved = {"device": device, "dtype": dtype}
    given = {name: value for name, value in moved.items() if value is not None}
    return network.to(**given, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it


@cache  # once in a process
def keep_memory() -> None:
    """Has glibc keep up to 64 MB of what is freed for the next who asks.

    It gives the end of its heap back once that is twice as large as the largest block that it saw come and go; each
    page of it is cleared anew when it is asked for again. Where the results of a layer are just larger than that, it
    does so in each layer, which can be a third of a network's time. One large block, which nobody writes to, is enough.
    """
    torch.empty(_LARGEST_COUNTED - _BESIDE, dtype=torch.uint8, device="cpu")  # whatever device is torch's default


@cache
def has_native(precision: str) -> bool:
    """Whether this machine's processor multiplies in ``"fp32"``, ``"bf16"`` or ``"fp16"`` itself.

    What torch (``ATEN_CPU_CAPABILITY``) and oneDNN (``ONEDNN_MAX_CPU_ISA``) were told not to use does not count.
    """
    if precision == "fp32":
        return True
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    if supported is None or not supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # oneDNN takes bf16 on every processor with AVX512, but emulates it on those that have no instructions for it.
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and (precision == "fp16" or torch.cpu._is_avx512_bf16_supported())


@cache  # one line in a process
def _warn_of_emulation(precision: str) -> None:
    _log.warning("this processor has no %s of its own and would only emulate it: computing in fp32", precision)
