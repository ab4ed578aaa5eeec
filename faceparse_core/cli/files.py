"""Which files a command may write."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

_OUTPUTS = ("labels", "overlay", "mask", "cutout", "edited")  # STEM.labels.png …: never taken for input


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


def pictures_in(names: Sequence[str]) -> list[Path]:
    """The pictures that are meant: files as they are given, and what lies in folders, our own outputs left out."""
    from faceparse_core.images import SUFFIXES

    inputs: list[Path] = []
    for name in names:
        if not name:
            raise ValueError("an empty name is no picture: give a file or a folder ('.' for the current one)")
        path = Path(name)
        if not os.path.isdir(path):  # unlike Path.is_dir, False for what no file can be called
            inputs.append(path)
            continue
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not _is_output(p))
        if not found:
            raise FileNotFoundError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
        inputs += found
    return list(dict.fromkeys(inputs))


def _is_output(path: Path) -> bool:
    stem = Path(path.stem)
    if stem.suffix.removeprefix(".").isdecimal():  # STEM.mask.0.png: of one face
        stem = Path(stem.stem)
    return path.suffix == ".png" and stem.suffix.removeprefix(".") in _OUTPUTS


def out_path(text: str) -> Path:
    """``--out``: anything but nothing, which Path takes for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a file or a folder ('.' for the current one)")
    return Path(text)


def one_file(
    parser: argparse.ArgumentParser, out: Path | None, inputs: Sequence[Path], names: Sequence[str]
) -> Path | None:
    """``out``, if it is the file of the one picture that there is; None: it is a folder. Ends the command where it is a
    file for several pictures; ``names``: what ``inputs`` was found by."""
    if out is None or not out.suffix or os.path.isdir(out):
        return None
    if len(inputs) > 1 or os.path.isdir(names[0]):
        parser.error(f"--out {out} is one file, but there are {len(inputs)} pictures: give a folder")
    return out
