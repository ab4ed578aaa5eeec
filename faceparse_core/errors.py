"""What goes wrong, in words for the person: numbers within bounds, and what libraries raise told as an error of ours.

From the engine come ``ValueError`` for a bad argument or a file that is no picture, ``FileNotFoundError`` (or what else
the system says of a file: an ``OSError``), ``CheckpointError`` for weights, ``MemoryError`` where there is not enough
of it, and ``ImportError`` for an extra that is not installed. Each says what was given, what is accepted, what to do.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

# Longer messages of libraries are lists of their inner calls.
_MOST_WORDS = 300
_ADVICE = "there is not enough memory. Take a smaller picture, fewer at a time or a smaller resolution"

LARGEST = 1_000_000
"""No width, radius or distance in pixels makes sense beyond this: no picture is so large."""


class CheckpointError(RuntimeError):
    """Weights that are missing, damaged or of another kind; the message says what, where, and what to do."""


@overload
def number(name: str, value: Any, least: float = -LARGEST, most: float = LARGEST, *, whole: Literal[True]) -> int: ...
@overload
def number(name: str, value: Any, least: float = -LARGEST, most: float = LARGEST) -> float: ...
def number(name: str, value: Any, least: float = -LARGEST, most: float = LARGEST, *, whole: bool = False) -> float:
    """``value``, which must be a number from ``least`` to ``most``: an int if ``whole``. Else ValueError."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or value == math.inf or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        bounds = f"from {least:,} to {most:,}" if most < math.inf else f"of {least:,} or more"
        raise ValueError(f"{name} must be {kind} {bounds}, not {said(repr(value))}")
    return int(value) if whole else value


@contextlib.contextmanager
def explained(what: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Whatever a library raises inside is raised again as ``kind``, with ``what`` was being done before its words.

    Errors that are ours already pass: CheckpointError, and of the system's a file that is missing or closed to us. Too
    little memory is always a MemoryError.
    """
    try:
        yield
    except (CheckpointError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise _no_memory(what, error) from error
        raise kind(f"{what}: {said(error)}") from error


@contextlib.contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Too little memory, for which every library has a word of its own, is a MemoryError; everything else passes."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise _no_memory(what, error) from error
        raise


def _no_memory(what: str, error: Exception) -> MemoryError:
    if isinstance(error, MemoryError) and _ADVICE in str(error):
        return error
    return MemoryError(f"{what}: {_ADVICE}")


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Says which extra to install where an import inside finds nothing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "faceparse_core":
            raise
        raise ImportError(
            f"{error.name} is not installed, which this needs: pip install 'faceparse[{name}]'"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how Python, torch, ONNX Runtime or the system says that memory has run out."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        phrase in words
        for phrase in (
            "out of memory",  # CUDA, Metal
            "can't allocate memory",  # torch on the CPU
            "cannot allocate memory",  # the system
            "failed to allocate memory",  # ONNX Runtime
            "bad_alloc",
            "bad allocation",
        )
    )


def said(error: object) -> str:
    """What an error says, in one short line; its kind if it says nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]} …"


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` as the home directory; as it is for somebody who has none (containers with a bare uid)."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
