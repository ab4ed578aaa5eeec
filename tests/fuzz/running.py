"""Running cases: what each may do, and what is said of one that does something else."""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from faceparse_core import CheckpointError

Campaign = Callable[[random.Random, Path], None]
"""One case: it is made from the random numbers alone, and may write into the folder."""

# What a case may raise: our errors, and the hint that an extra is missing.
OURS = (ValueError, OSError, CheckpointError, MemoryError, ImportError)
# Of the processor: how long a case waits on a busy machine says nothing of it.
MOST_SECONDS, MOST_BYTES = 20.0, 2 << 30


def run(campaign: Campaign, seed: int) -> tuple[str, str] | None:
    """One case. Returns None, or in a line and at length what is wrong."""
    before, start = _peak(), time.process_time()
    problem = None
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            campaign(random.Random(f"{campaign.__name__} {seed}"), Path(folder))
        except OURS:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {str(error)[:200]}", traceback.format_exc()
    seconds, grown = time.process_time() - start, _peak() - before
    if problem is None and seconds > MOST_SECONDS:
        problem = f"took {seconds:.0f} s", ""
    if problem is None and grown > MOST_BYTES:
        problem = f"took {grown >> 20} MB", ""
    return problem and (f"{campaign.__name__} --seed {seed}: {problem[0]}", problem[1])


def within(seconds: float, campaign: Campaign, first: int = 0, most: int = sys.maxsize) -> tuple[int, list]:
    """Cases from the seed ``first`` on, for so long: how many there were, and what is wrong with those that failed."""
    until, problems, seed = time.monotonic() + seconds, [], first
    while seed < first + most and (seed == first or time.monotonic() < until):
        problem = run(campaign, seed)
        if problem:
            problems.append(problem)
        seed += 1
    return seed - first, problems


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
