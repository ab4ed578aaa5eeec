"""What the benchmarks have in common: time, in turns, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

# time.process_time in its place counts what the processor does for this process: other programs change it less.
clock = time.perf_counter


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, a GPU's part of it too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def medians(*works: Callable[[], object], rounds: int = 9) -> list[float]:
    """The median time of each, done in turns: what else the machine does meets all of them alike."""
    taken = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(one) for one in zip(*taken, strict=True)]


def memory(field: str, process: int | str = "self") -> float | None:
    """VmRSS or VmHWM (its peak) of a process in MB; None where the system does not tell."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3
