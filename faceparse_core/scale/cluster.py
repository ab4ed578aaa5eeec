"""The same on a cluster of Ray: actors that keep the model, in Ray Data. Ray is imported only inside the functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faceparse_core import images as pictures
from faceparse_core.errors import extra
from faceparse_core.scale import shards
from faceparse_core.scale.shards import Parsed, Settings
from faceparse_core.scale.sources import Item

if TYPE_CHECKING:
    import ray.data

    from faceparse_core.scale.batch import Told, Work

_COLUMNS = ("image", "bytes")


def parse_dataset(
    dataset: ray.data.Dataset,
    *,
    model: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    resolution: int | None = None,
    fit: str = "auto",
    faces: str = "auto",
    column: str | None = None,
    keep: Sequence[str] = ("path",),
    batch_size: int = 16,
    workers: int | tuple[int, int] = 1,
    cpus: float = 1,
    gpus: float = 0,
) -> ray.data.Dataset:
    """A Ray Dataset with a row for each picture of ``dataset``: what ``faceparse batch`` writes (see docs/scale.md).

    ``column`` holds the pictures: files as bytes, or uint8 arrays [H, W, C]; by default ``image``, else ``bytes``, as
    ``ray.data.read_images`` and ``read_binary_files`` call them. ``keep``: columns that stay. Each of the ``workers``
    (so many, or from so many to so many) is an actor that loads the model once and has ``cpus`` processors and ``gpus``
    GPUs, which may be a part of one. A picture that cannot be read has its ``error`` alone. The other parameters are
    those of ``FaceParser`` and ``parse``. Nothing is computed before the result is asked for. Raises ImportError
    without Ray (extra ``ray``), ValueError if there is no such column.
    """
    with extra("ray"):
        import ray.data  # noqa: F401
    names = dataset.columns() or []
    column = column or next((name for name in _COLUMNS if name in names), None)
    if column not in names:
        raise ValueError(f"the dataset has no column {column or 'image or bytes'!r}: it has {', '.join(names)}")
    return dataset.map_batches(
        _ParseRows,
        fn_constructor_args=(
            Settings(model, device if device != "auto" or gpus else "cpu", precision, resolution, fit, faces),
            column,
            [name for name in keep if name in names],
            max(1, int(cpus)),
        ),
        batch_format="numpy",
        batch_size=batch_size,
        compute=_actors(workers),
        num_cpus=cpus,
        num_gpus=gpus,
    )


class _ParseRows:
    """An actor: batches of a dataset in, rows as an Arrow table out."""

    def __init__(self, settings: Settings, column: str, keep: Sequence[str], threads: int):
        self.parsed, self.column, self.keep = Parsed(settings, threads), column, keep

    def __call__(self, batch: dict[str, np.ndarray]):
        import pyarrow as pa

        given = batch[self.column]
        kept = {name: batch[name] for name in self.keep if name != self.column}
        names = [str(name) for name in kept.get("path", range(len(given)))]
        rows = self.parsed.rows(
            names, [partial(_picture, value, name) for value, name in zip(given, names, strict=True)]
        )
        table = pa.Table.from_pylist(rows, shards.schema())
        if "path" not in kept:
            table = table.drop_columns("path")
        for name, values in kept.items():
            if name != "path":
                table = table.append_column(name, pa.array(list(values)))
        return table


def _picture(value: Any, name: str):
    if isinstance(value, bytes):
        return pictures.decoded(value, name)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} is no picture, but {type(value).__name__}")
    return pictures.load(value)[0]


def run_on_ray(work: Work, workers: int | None, cpus: float, gpus: float, told: Told) -> None:
    """Does the work on the cluster that Ray is connected to (``RAY_ADDRESS``), else on this machine.

    A shard is the unit: an actor that dies leaves nothing, and another does it anew. Pictures and ``out`` must lie
    where every machine sees them under the same path. ``workers``: so many actors; None: as many as there is room for.
    """
    with extra("ray"):
        import ray
        import ray.data
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    out = work.out.resolve()
    settings = work.settings if work.settings.device != "auto" or gpus else replace(work.settings, device="cpu")
    rows = [
        {"number": number, "items": json.dumps([item._replace(file=str(Path(item.file).resolve())) for item in part])}
        for number, part in work.left.items()
    ]
    room = _room(ray.cluster_resources(), cpus, gpus)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _WriteShards,
        fn_constructor_args=(settings, out, max(1, int(cpus))),
        batch_format="numpy",
        batch_size=1,
        compute=_actors(min(workers or room, len(rows))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in dataset.iter_rows():
        told(int(row["pictures"]), int(row["failed"]))


def _actors(count: int | tuple[int, int]):
    """So many actors, or from so many to so many, in Ray's words."""
    from ray.data import ActorPoolStrategy

    if isinstance(count, int):
        return ActorPoolStrategy(size=count)
    return ActorPoolStrategy(min_size=count[0], max_size=count[1])


def _room(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """How many actors the cluster has room for, a processor left for Ray's own tasks."""
    by_cpu = (resources.get("CPU", 1) - 1) / cpus if cpus else float("inf")
    by_gpu = resources.get("GPU", 0) / gpus if gpus else float("inf")
    return max(1, int(min(by_cpu, by_gpu)))


class _WriteShards:
    """An actor: numbers of shards and their items in, the shards in their folder."""

    def __init__(self, settings: Settings, out: Path, threads: int):
        self.parsed, self.out = Parsed(settings, threads), out

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        counts = []
        for number, text in zip(batch["number"], batch["items"], strict=True):
            # JSON knows no tuples.
            part = [
                Item(name, file, tuple(place) if place else None, column)
                for name, file, place, column in json.loads(str(text))
            ]
            if shards.file_of(self.out, int(number)).is_file():  # done by an actor that died when it had written it
                counts.append((len(part), _failed(self.out, int(number))))
            else:
                counts.append(shards.write(self.parsed, self.out, int(number), part, lambda new, failed: None))
        pictures, failed = zip(*counts, strict=True)
        return {"number": batch["number"], "pictures": np.array(pictures), "failed": np.array(failed)}


def _failed(out: Path, number: int) -> int:
    """How many pictures of a shard could not be parsed."""
    import pyarrow.parquet as pq

    errors = pq.read_table(shards.file_of(out, number), columns=["error"])["error"]
    return len(errors) - errors.null_count
