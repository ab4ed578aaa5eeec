"""The desk: pictures of many callers at once, parsed in shared batches, and never more of them than there is room for.

A picture waits for a place, is decoded by one of a few threads, joins the next batch of the one thread that runs the
network, and is told of by the few threads again. While the network is at a batch the next is decoded. Places bound how
many decoded pictures there are; how many may wait for a place is bounded, too, and beyond that comes ``Full``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.parser import BATCH_ON_GPU, FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import single_threads, spread
from faceparse_core.scale.answers import name_of
from faceparse_core.scale.asking import Asked, Limits

# So long a batch that is not full waits for pictures that are being decoded.
_SECONDS_OF_WAITING = 0.01
_THREADS = 2
# Of torch's threads so many are few: a picture for each at a time is more in all than one after the other by all.
_FEW_THREADS = 4
# Room is for what is done in so many seconds, so that one who comes last has an answer in two, but for at least so many
# pictures, or the network would wait for them, and for no more than these or so many batches.
_SECONDS_INSIDE = 1.5
_LEAST_ROOM, _MOST_ROOM, _MOST_BATCHES = 4, 16, 8


class _HasFaces(Protocol):
    """Options of any kind: how faces are found is the desk's business."""

    @property
    def faces(self) -> str: ...


_Options = TypeVar("_Options", bound=_HasFaces)
_Answer = TypeVar("_Answer")


class Full(Exception):
    """There is no room for so many pictures now. ``seconds``: when there should be."""

    def __init__(self, seconds: int):
        super().__init__(f"the queue is full: try again in {seconds} s")
        self.seconds = seconds


@dataclass
class _Job:
    image: Tensor
    faces: str
    parsing: Future[Parsing] = field(default_factory=Future)


class Desk:
    """Answers requests with a ``parser``; ``room``: for so many pictures in all, waiting or being worked at.

    ``batch``: how many go through the network together; by default many on a GPU, and on a processor one for each of
    torch's threads, or one at all where these are many, and quicker together. ``room``, if it is not given, is for what
    is done in a second and a half at the rate of late, from 4 pictures to 16 or eight batches; a request of more is
    taken while there is no other.
    ``told(pictures, seconds)`` is called after every batch. To be used by one event loop; ``close`` ends its threads.
    """

    def __init__(
        self,
        parser: FaceParser,
        limits: Limits,
        room: int | None = None,
        batch: int | None = None,
        told: Callable[[int, float], None] = lambda pictures, seconds: None,
    ):
        self.parser, self.limits, self.told = parser, limits, told
        threads = torch.get_num_threads()
        on_cpu = threads if threads <= _FEW_THREADS else 1
        self.batch = batch or (on_cpu if parser.device.type == "cpu" else BATCH_ON_GPU)
        self._room, self._most = room, max(_MOST_ROOM, _MOST_BATCHES * self.batch)
        self.inside = 0
        self._seconds_each = _SECONDS_INSIDE / self._most  # of late
        self._places = asyncio.Semaphore(2 * self.batch + _THREADS)
        self._coming = 0  # decoded, or being so, and not yet taken into a batch
        self._lock = threading.Lock()
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        # Each with a thread of torch's alone: a team of each of them would be in the network's way.
        self._hands = single_threads(_THREADS, "faceparse-desk")
        self._network = threading.Thread(target=self._run, name="faceparse-network", daemon=True)
        self._network.start()

    @property
    def room(self) -> int:
        """For so many pictures, waiting or being worked at, there is room."""
        done = int(_SECONDS_INSIDE / self._seconds_each)
        return self._room or min(max(_LEAST_ROOM, 2 * self.batch, done), self._most)

    async def answers(
        self, asked: Asked[_Options], tell: Callable[[Parsing, Tensor, _Options], _Answer]
    ) -> list[_Answer]:
        """What ``tell`` makes of each picture of a request: its parsing, the picture, the options.

        Raises Full, ValueError, MemoryError, asyncio.TimeoutError.
        """
        count = len(asked.pictures)
        if self.inside and self.inside + count > self.room:
            raise Full(self.retry_after())
        self.inside += count
        try:
            tasks = [asyncio.ensure_future(self._one(asked, i, tell)) for i in range(count)]
            try:
                return await asyncio.wait_for(asyncio.gather(*tasks), self.limits.seconds)
            finally:
                for task in tasks:
                    task.cancel()
        finally:
            self.inside -= count

    def retry_after(self) -> int:
        """Seconds until half of what is inside should be done."""
        return max(1, min(round(self.inside * self._seconds_each / 2), 60))

    def close(self) -> None:
        self._jobs.put(None)
        self._hands.shutdown(wait=False, cancel_futures=True)

    async def _one(
        self, asked: Asked[_Options], index: int, tell: Callable[[Parsing, Tensor, _Options], _Answer]
    ) -> _Answer:
        loop = asyncio.get_running_loop()
        async with self._places:
            name = name_of(index, len(asked.pictures))
            self._count(1)
            try:
                image = await loop.run_in_executor(
                    self._hands,
                    lambda: pictures.decoded(asked.pictures[index], name, most_pixels=self.limits.pixels),
                )
            except BaseException:  # it is none, or nobody waits for it any more
                self._count(-1)
                raise
            job = _Job(image, asked.options.faces)
            self._jobs.put(job)
            parsing = await asyncio.wrap_future(job.parsing)
            return await loop.run_in_executor(self._hands, tell, parsing, image, asked.options)

    def _count(self, change: int) -> None:
        with self._lock:
            self._coming += change

    def _run(self) -> None:
        """The thread of the network: one batch after the other."""
        while True:
            batch = self._next()
            if not batch:
                return
            self._count(-len(batch))
            start = time.perf_counter()
            wanted = [job for job in batch if job.parsing.set_running_or_notify_cancel()]
            if self.parser.device.type == "cpu":
                # Where each has one, threads do not wait for each other at each step.
                if len(wanted) >= torch.get_num_threads():
                    spread(lambda job: self._parse([job], job.faces), wanted)
                else:
                    for job in wanted:
                        self._parse([job], job.faces)
            else:
                for faces in dict.fromkeys(job.faces for job in wanted):
                    self._parse([job for job in wanted if job.faces == faces], faces)
            seconds = time.perf_counter() - start
            if wanted:
                self._seconds_each += 0.2 * (seconds / len(wanted) - self._seconds_each)
                self.told(len(wanted), seconds)

    def _next(self) -> list[_Job]:
        """A batch: what is there and what comes within the time; nothing: the end."""
        first = self._jobs.get()
        if first is None:
            return []
        batch, until = [first], time.monotonic() + _SECONDS_OF_WAITING
        while len(batch) < self.batch and self._coming > len(batch):
            try:
                job = self._jobs.get(timeout=max(until - time.monotonic(), 0.0001))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # to be seen when this batch is done
                break
            batch.append(job)
        return batch

    def _parse(self, jobs: list[_Job], faces: str) -> None:
        try:
            parsing = self.parser.parse([job.image for job in jobs], faces=faces)
            for i, job in enumerate(jobs):
                job.parsing.set_result(parsing[i])
        except Exception as error:  # whatever it is: this thread goes on, and the callers are told
            if len(jobs) == 1:
                jobs[0].parsing.set_exception(error)
                return
            for job in jobs:  # of one of them it may be: the others are answered
                self._parse([job], faces)
