"""The command line: ``faceparse portrait.jpg`` and its companions. A file a command; others use ``main`` alone.

Exit code 0: done; 1: something failed; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from faceparse_core.cli.data import data
from faceparse_core.cli.evaluate import evaluate
from faceparse_core.cli.export import export
from faceparse_core.cli.models import download, models
from faceparse_core.cli.parse import parse
from faceparse_core.cli.train import train

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "models": models,
        "download": download,
        "train": train,
        "data": data,
        "evaluate": evaluate,
        "export": export,
    }
    logger = logging.getLogger("faceparse")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("faceparse: %(message)s"))
    logger.addHandler(handler)
    try:
        if argv and argv[0] in commands:
            return commands[argv[0]](argv[1:])
        return parse(argv)
    except KeyboardInterrupt:
        print("faceparse: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return 1
    except _expected_errors() as error:
        print(f"faceparse: {error}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is for the user. CheckpointError is only there once its module is loaded."""
    checkpoints = sys.modules.get("faceparse_core.checkpoints")
    return (ValueError, OSError, ImportError, *((checkpoints.CheckpointError,) if checkpoints else ()))
