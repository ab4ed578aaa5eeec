"""Which files a command may write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class Outputs:
    """What a run writes, so that nothing is lost by it.

    A file is written where none is, or where one with our mark is (``images.is_ours``). What the run reads
    (``inputs``) and what somebody else made stay as they are, unless ``force`` is given. What the run itself has
    written stays in any case.
    """

    def __init__(self, inputs: Iterable[Path] = (), *, force: bool = False):
        self.inputs = {_place(path) for path in inputs}
        self.force = force
        self.written: dict[str, Path | None] = {}

    def require(self, path: Path) -> None:
        """Raises FileExistsError, with what to do about it, if ``path`` may not be written."""
        from faceparse_core import images

        place = _place(path)
        if place in self.written:
            raise FileExistsError(
                f"{path} was already written for {self.written[place]}: rename one, or parse it into another --out"
            )
        if self.force or not os.path.lexists(path):
            return
        if place in self.inputs:
            raise FileExistsError(
                f"{path} would overwrite a picture that is to be parsed: give another --out, or --force"
            )
        if not images.is_ours(path):
            raise FileExistsError(
                f"{path} is there already and was not made by faceparse: give another --out, or --force to overwrite it"
            )

    def is_done(self, path: Path) -> bool:
        """Whether an earlier run has written ``path``, and this one nothing there for another picture."""
        from faceparse_core import images

        return _place(path) not in self.written and images.is_ours(path)

    def note(self, path: Path, source: Path | None = None) -> None:
        """Remembers that ``path`` is what there is of ``source``."""
        self.written[_place(path)] = source


def _place(path: Path) -> str:
    """The same for all ways to write a path, links followed."""
    return os.path.normcase(os.path.realpath(path))
