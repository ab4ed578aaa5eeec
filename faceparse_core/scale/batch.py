"""Whole folders and datasets into shards: by processes on this machine, or by Ray on many. Goes on where it ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import torch

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device
from faceparse_core.scale import shards
from faceparse_core.scale.shards import Parsed, Settings
from faceparse_core.scale.sources import Item, in_shards, items

_PLAN = "_batch.json"  # what begins so is no part of a data set for those who read Parquet
# A shard that has ended so many processes is not tried again.
_MOST_TRIES = 3

_log = logging.getLogger("faceparse")

Told = Callable[[int, int], None]
"""Called with how many pictures are new, and how many of them failed."""


@dataclass(frozen=True)
class Work:
    """What is left to do: the shards, by number, that are not there yet; and how many ``pictures`` are, of all."""

    out: Path
    settings: Settings
    left: dict[int, Sequence[Item]]
    pictures: int

    @property
    def done(self) -> int:
        return self.pictures - sum(map(len, self.left.values()))


def plan(source: str, out: Path, settings: Settings, *, shard: int = 1000, column: str = "image") -> Work:
    """What is to be done to have ``source`` parsed in ``out``: all, or what an earlier run left.

    What is asked for is written there, and must be the same when it goes on; else ValueError.
    """
    found = items(source, column)
    if settings.model == "auto":  # which one is decided now, once, for all processes and for when this goes on
        settings = replace(settings, model=checkpoints.find("auto").name)
    names = hashlib.sha256("\n".join(item.name for item in found).encode("utf-8", "surrogateescape")).hexdigest()
    asked = {"pictures": len(found), "names": names, "shard": shard, **asdict(settings)}
    out.mkdir(parents=True, exist_ok=True)
    file = out / _PLAN
    if file.is_file():
        begun = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name in asked if begun.get(name) != asked[name] and name != "device"]
        if differing:
            raise ValueError(
                f"{out} was begun with other {', '.join(differing)}: give what was given then, or another --out"
            )
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty, and nothing was begun there by this command: give another --out")
    else:
        unfinished = out / f".{_PLAN}.part"
        unfinished.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, file)
    parts = in_shards(found, shard)
    left = {number: part for number, part in enumerate(parts) if not shards.file_of(out, number).is_file()}
    return Work(out, settings, left, len(found))


def run_here(work: Work, workers: int | None = None, told: Told = lambda new, failed: None) -> None:
    """Does the work with so many processes; None: one for each GPU, or each two processors.

    A process that is killed is replaced and its shard done again. Raises ChildProcessError where that happens over and
    over, and for what went wrong in a process.
    """
    for file in work.out.glob(".part-*.part"):  # of a run that was killed
        file.unlink(missing_ok=True)
    workers = min(workers or _default_workers(work.settings), len(work.left))
    if workers <= 1:
        parsed = Parsed(work.settings)
        for number, part in work.left.items():
            shards.write(parsed, work.out, number, part, told)
        return
    context = multiprocessing.get_context("spawn")
    left, tries = deque(work.left), Counter[int]()
    busy: dict[Connection, tuple[BaseProcess, int]] = {}
    started = 0

    def start() -> Connection:
        nonlocal started
        ours, theirs = context.Pipe()
        settings = _placed(work.settings, started)
        process = context.Process(target=_worker, args=(theirs, settings, work.out, _threads(workers)), daemon=True)
        process.start()
        theirs.close()
        busy[ours] = process, -1
        started += 1
        return ours

    def give(connection: Connection) -> None:
        """The next shard, or the end."""
        process, _ = busy[connection]
        if not left:
            connection.close()
            process.join()
            del busy[connection]
            return
        number = left.popleft()
        tries[number] += 1
        busy[connection] = process, number
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just ended, which is noticed below
            connection.send((number, work.left[number]))

    try:
        for _ in range(workers):
            give(start())
        while busy:
            for connection in cast("list[Connection]", wait(list(busy))):
                process, number = busy[connection]
                try:
                    kind, *values = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    del busy[connection]
                    if tries[number] == _MOST_TRIES:
                        raise ChildProcessError(
                            f"shard {number} has ended {_MOST_TRIES} processes (the last with {process.exitcode}): "
                            "is there enough memory? Fewer --workers take less"
                        ) from None
                    _log.warning("a process has ended (%s): shard %d is done again", process.exitcode, number)
                    left.appendleft(number)
                    give(start())
                    continue
                if kind == "told":
                    told(*values)
                elif kind == "failed":
                    raise ChildProcessError(values[0])
                else:
                    give(connection)
    finally:
        for process, _ in busy.values():
            process.terminate()


def _worker(connection: Connection, settings: Settings, out: Path, threads: int) -> None:
    """A process: shards, one after the other, until the other end closes; also when whoever started it was killed."""
    parsed = Parsed(settings, threads)
    try:
        while True:
            number, part = connection.recv()
            try:
                shards.write(parsed, out, number, part, lambda new, failed: connection.send(("told", new, failed)))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # whatever it is: who started this is told
                connection.send(("failed", f"{type(error).__name__}: {error}"))
                return
            connection.send(("done",))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(workers: int) -> int:
    return max(1, _processors() // workers)


def _default_workers(settings: Settings) -> int:
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index is None:
        return torch.cuda.device_count()
    return 1 if device.type != "cpu" else max(1, _processors() // 2)


def _placed(settings: Settings, number: int) -> Settings:
    """The settings of a process: of several GPUs each gets one."""
    device = choose_device(settings.device)
    if device.type != "cuda" or device.index is not None:
        return settings
    return replace(settings, device=f"cuda:{number % torch.cuda.device_count()}")
