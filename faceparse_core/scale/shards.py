"""Shards: the results of some hundred pictures as one Parquet file, which is whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.errors import enough_memory
from faceparse_core.parser import BATCH_ON_CPU, BATCH_ON_GPU, FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.scale.records import record
from faceparse_core.scale.sources import Item, load


@dataclass(frozen=True)
class Settings:
    """With what pictures are parsed, as ``FaceParser`` and ``parse`` take it; ``pngs``: label maps as files, too."""

    model: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    resolution: int | None = None
    fit: str = "auto"
    faces: str = "auto"
    pngs: bool = False


def schema():
    """The columns of a shard, as pyarrow's schema; a picture that could not be parsed has its ``error`` alone."""
    import pyarrow as pa

    box = [(side, pa.int32()) for side in ("x", "y", "width", "height")]
    marks = ("landmarks", pa.list_(pa.list_(pa.float64())))
    face = pa.struct([("index", pa.int32()), *box, ("angle", pa.float64()), ("score", pa.float64()), marks])
    label = pa.struct(
        [
            ("id", pa.int8()),
            ("name", pa.string()),
            ("pixels", pa.int64()),
            ("share", pa.float64()),
            ("box", pa.list_(pa.int32())),
            ("centre", pa.list_(pa.float64())),
            ("counts", pa.string()),
        ]
    )
    return pa.schema(
        [
            ("path", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("faces", pa.list_(face)),
            ("labels", pa.list_(label)),
            ("png", pa.string()),
            ("error", pa.string()),
        ]
    )


class Parsed:
    """A parser that is loaded once in a process, and makes rows of pictures."""

    def __init__(self, settings: Settings, threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self.settings = settings

    @cached_property
    def parser(self) -> FaceParser:
        own = self.settings
        return FaceParser(own.model, own.device, own.precision, resolution=own.resolution, fit=own.fit)

    @property
    def batch(self) -> int:
        """How many pictures are read and parsed together."""
        return 4 * BATCH_ON_CPU if self.parser.device.type == "cpu" else 2 * BATCH_ON_GPU

    def rows(self, names: Sequence[str], readers: Sequence[Callable[[], Tensor]], pngs: Sequence[Path] = ()) -> list:
        """A row for each picture, in order; ``readers`` give them, ``pngs`` are the files of their label maps."""
        rows: list[dict] = [{"path": name} for name in names]
        images: dict[int, Tensor] = {}
        for number, reader in enumerate(readers):
            try:
                with enough_memory("it cannot be read"):
                    images[number] = reader()
            except (ValueError, OSError, MemoryError) as error:  # of this picture: the rest goes on
                rows[number]["error"] = str(error) or type(error).__name__
        for number, parsing in self._parsings(images, rows).items():
            try:
                with enough_memory("its labels cannot be drawn"):
                    rows[number] |= record(parsing)
                    if pngs:
                        pictures.save(pictures.indexed(parsing.labels[0]), pngs[number])
                        rows[number]["png"] = "/".join(pngs[number].parts[-3:])
            except MemoryError as error:
                rows[number] = {"path": names[number], "error": str(error)}
        return rows

    def _parsings(self, images: dict[int, Tensor], rows: list[dict]) -> dict[int, Parsing]:
        """The parsing of each picture; where one of them makes all fail, of each by itself."""
        try:
            parsing = self.parser.parse(list(images.values()), faces=self.settings.faces) if images else ()
            return dict(zip(images, parsing, strict=True))
        except (ValueError, MemoryError) as error:
            if len(images) > 1:
                alone = [self._parsings({number: image}, rows) for number, image in images.items()]
                return {number: one for some in alone for number, one in some.items()}
            (number,) = images
            rows[number]["error"] = str(error)
            return {}


def file_of(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.parquet"


def write(
    parsed: Parsed, out: Path, number: int, items: Sequence[Item], told: Callable[[int, int], None]
) -> tuple[int, int]:
    """Parses the items of a shard and writes it; how many pictures it holds, and how many of them failed.

    ``told(pictures, failed)`` is called after every batch.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict] = []
    folder = out / "_labels" / f"part-{number:05d}"
    if parsed.settings.pngs:
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(items), parsed.batch):
        some = items[start : start + parsed.batch]
        pngs = [folder / f"{start + i:05d}.png" for i in range(len(some))] if parsed.settings.pngs else ()
        new = parsed.rows([item.name for item in some], [partial(load, item) for item in some], pngs)
        rows += new
        told(len(new), sum("error" in row for row in new))
    unfinished = out / f".part-{number:05d}.{uuid.uuid4().hex}.part"
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema()), unfinished, compression="zstd")
        os.replace(unfinished, file_of(out, number))
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return len(rows), sum("error" in row for row in rows)
