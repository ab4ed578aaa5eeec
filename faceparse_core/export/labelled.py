"""A labelled picture between formats, what its masks are, and what all writers have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceparse_core.labels import LABELS, NUM_LABELS, Label, region_ids


@dataclass(frozen=True)
class Labelled:
    """A picture: its ``name``, a relative path; where it lies, or None; its ``labels``, uint8 [H, W], ids or 255."""

    name: str
    picture: Path | None
    labels: np.ndarray

    def __post_init__(self):
        parts = Path(self.name).parts
        if not parts or Path(self.name).is_absolute() or ".." in parts:  # files are written by this name
            raise ValueError(f"{self.name!r} is no name of a picture within a set: it must not lead out of it")

    def masks(self) -> Iterator[tuple[Label, np.ndarray, tuple[int, int, int, int]]]:
        """Of each label that is there, the background left out: mask, bool [H, W], and box (x, y, width, height)."""
        for label in np.unique(self.labels).tolist():
            if 0 < label < NUM_LABELS:
                mask = self.labels == label
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                x, y = int(columns[0]), int(rows[0])
                yield LABELS[label], mask, (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


class Writer:
    """Writes labelled pictures into a folder: ``add`` for each of them, then ``close``."""

    def __init__(self, out: Path):
        self.out = out

    def add(self, one: Labelled) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """What can only be written at the end."""

    def file(self, folder: str, one: Labelled, suffix: str) -> Path:
        """Where a file for this picture goes: under its own name, with its folders."""
        file = (self.out / folder / one.name).with_suffix(suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise ValueError(f"{one.name}: {file} is of another picture already, which differs in its suffix alone")
        return file

    def write_json(self, name: str, values: Any) -> None:
        (self.out / name).write_text(json.dumps(values), encoding="utf-8")


def id_of(name: str, where: Path) -> int:
    """The label that ``name`` means in a file. ValueError if it is none of ours."""
    ids = region_ids(name) if isinstance(name, str) else ()
    if len(ids) != 1:
        raise ValueError(f"{where}: {name!r} is no label of ours: {', '.join(label.title for label in LABELS)}")
    return ids[0]


def found_picture(name: str, folder: Path) -> Path | None:
    """The picture that a set names, if it is there; inside ``folder`` or beside it, as relative paths lead."""
    path = folder / name
    return path if path.is_file() else None
