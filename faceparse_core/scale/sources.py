"""Pictures in their thousands: a folder, a pattern, a list, Parquet and WebDataset files, as items that are read one
by one, by whichever process, in an order that stays the same from run to run."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from faceparse_core import images as pictures

PICTURES = (*pictures.SUFFIXES, ".gif")


class Item(NamedTuple):
    """One picture: its ``name``, and where it is: a ``file`` of its own, or in one, at (row group, row) of Parquet's
    ``column``, or at (first byte, bytes) of a tar."""

    name: str
    file: str
    place: tuple[int, int] | None = None
    column: str = ""


def items(source: str, column: str = "image") -> list[Item]:
    """The pictures of a source, in order.

    ``source``: a folder (all pictures in it and below), a pattern such as ``"photos/**/*.jpg"`` or ``"shards/*.tar"``,
    a text file with a path in each line, a ``.parquet`` file with pictures in ``column`` (bytes, or a struct with
    ``bytes``, as datasets have them, or paths), a ``.tar`` as WebDataset has it, or one picture. Raises
    FileNotFoundError where there is nothing, ValueError for what is none of these.
    """
    path = Path(source)
    if os.path.isdir(path):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
    elif os.path.isfile(path):
        files = [path]
    else:
        files = [Path(name) for name in sorted(glob.glob(source, recursive=True)) if os.path.isfile(name)]
    found = [item for file in files for item in _of_file(file, column)]
    if not found:
        kinds = "a folder, a pattern, a list (.txt), a .parquet or a .tar"
        raise FileNotFoundError(f"there are no pictures in {source!r}: give {kinds}")
    return found


def _of_file(file: Path, column: str) -> Iterator[Item]:
    kind = file.suffix.lower()
    if kind in PICTURES:
        yield Item(str(file), str(file))
    elif kind == ".txt":
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield Item(line.strip(), line.strip())
    elif kind == ".tar":
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    if member.isfile() and Path(member.name).suffix.lower() in PICTURES:
                        yield Item(f"{file}/{member.name}", str(file), (member.offset_data, member.size))
        except tarfile.TarError as error:
            raise ValueError(f"{file} is no tar that can be read (packed ones must be unpacked): {error}") from error
    elif kind == ".parquet":
        yield from _of_parquet(file, column)
    else:
        raise ValueError(f"{file} is neither a picture nor a list (.txt), a .parquet or a .tar")


def _of_parquet(file: Path, column: str) -> Iterator[Item]:
    table = _parquet(str(file))
    if column not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise ValueError(f"{file} has no column {column!r}: give --column, one of {names}")
    number = 0
    for group in range(table.num_row_groups):
        for row in range(table.metadata.row_group(group).num_rows):
            yield Item(f"{file}#{number}", str(file), (group, row), column)
            number += 1


def load(item: Item) -> Tensor:
    """The picture of an item, uint8 [H, W, 3]. Raises ValueError and OSError, as ``images.load``."""
    if item.place is None:
        return pictures.load(item.file)[0]
    if not item.column:
        start, size = item.place
        with open(item.file, "rb") as file:
            file.seek(start)
            return pictures.decoded(file.read(size), item.name)
    group, row = item.place
    value = _column(item.file, group, item.column)[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return pictures.load(value)[0]
    if not isinstance(value, bytes):
        raise ValueError(f"{item.name} holds no picture in {item.column!r}, but {type(value).__name__}")
    return pictures.decoded(value, item.name)


@lru_cache(maxsize=4)
def _parquet(file: str):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file)


@lru_cache(maxsize=1)
def _column(file: str, group: int, column: str):
    return _parquet(file).read_row_group(group, columns=[column])[column]


def in_shards(found: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in parts of ``size``."""
    return [found[start : start + size] for start in range(0, len(found), size)]
