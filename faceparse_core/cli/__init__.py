"""The command line: ``faceparse portrait.jpg`` and its companions. A file a command; others use ``main`` alone.

Exit code 0: done; 1: something failed; 2: wrong usage; 130: interrupted; 143: told to end (SIGTERM).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from faceparse_core.cli.batch import batch
from faceparse_core.cli.convert import convert
from faceparse_core.cli.data import data
from faceparse_core.cli.edit import edit
from faceparse_core.cli.evaluate import evaluate
from faceparse_core.cli.export import export
from faceparse_core.cli.figures import figures
from faceparse_core.cli.models import download, models
from faceparse_core.cli.parse import parse
from faceparse_core.cli.serve import serve
from faceparse_core.cli.train import train
from faceparse_core.errors import CheckpointError

__all__ = ["main"]


class _Terminated(BaseException):
    """Somebody sent SIGTERM."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "models": models,
        "download": download,
        "train": train,
        "data": data,
        "edit": edit,
        "figures": figures,
        "evaluate": evaluate,
        "export": export,
        "serve": serve,
        "batch": batch,
        "convert": convert,
    }
    logger = logging.getLogger("faceparse")
    with _streams(), _ending_cleanly():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("faceparse: %(message)s"))
        logger.addHandler(handler)
        try:
            code = commands[argv[0]](argv[1:]) if argv and argv[0] in commands else parse(argv)
            sys.stdout.flush()  # what cannot be written is to be noticed here
            return code
        except KeyboardInterrupt:
            print("faceparse: interrupted", file=sys.stderr)
            return 130
        except _Terminated:
            print("faceparse: terminated", file=sys.stderr)
            return 143
        except BrokenPipeError:  # the reader of our output has gone
            return 1
        except (ValueError, OSError, MemoryError, ImportError, CheckpointError) as error:
            print(f"faceparse: {str(error) or type(error).__name__}", file=sys.stderr)
            return 1
        finally:
            logger.removeHandler(handler)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Output that takes every name: what a terminal cannot show is written as \\u…, and where there is no output
    nothing is. What is left over when there is no way to write it is thrown away, or Python would tell of it again."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """SIGTERM ends a run like Ctrl+C: what was begun is taken away."""

    def end(number, frame):
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # others cannot ask for signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
