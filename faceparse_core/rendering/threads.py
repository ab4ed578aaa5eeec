"""Work that is cut into parts, each of some milliseconds, for as many threads as there are processors and parts.

torch splits every single operation over all threads, which then wait for each other: where another program keeps one of
the processors busy, each of many small steps waits for it. Here a thread does whole parts, one after the other, without
torch's own threads, and one that is held up leaves the rest to the others.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# All threads are held up if they take so many times as long as they did. What was slower, all of them or one, is tried
# again after so many times what that took. Of so few threads one is tried in any case, for it is not that much slower.
_HELD_UP, _AGAIN, _FEW = 1.5, 20, 4
# A picture is shared out in so many parts for each thread: one that is held up then does fewer of them.
_PARTS = 4

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def spread(work: Callable[[_Part], object], parts: Iterable[_Part]) -> None:
    """Calls ``work`` for each of the ``parts``, in any order and at once; an exception from one of them is raised.

    ``work`` must not write where another part does.
    """

    @torch.inference_mode()  # whatever the caller is in: threads do not inherit it, and what he gives may be written to
    def one(part: _Part) -> None:
        work(part)

    count = threads_at_hand()
    for _ in map(one, parts) if count == 1 else _workers(count).map(one, parts):
        pass


def threads_at_hand() -> int:
    """How many threads ``spread`` has."""
    return getattr(_leading, "count", 0) or torch.get_num_threads()


def size_of_part(pixels: int, least: int, most: int) -> int:
    """So many of a picture's ``pixels`` at a time, that ``spread`` has some parts for each thread; but at ``least`` so
    many, for only one thread at a time can say what is to be done next, and at ``most`` so many, to stay in a cache."""
    return min(max(pixels // (_PARTS * threads_at_hand()), least), most)


def led(work: Callable[[], _Result]) -> _Result:
    """What ``work`` gives: what it spreads is done by as many threads as the caller has, all between by one.

    For work that takes turns: of its small steps, too, each that all threads did would wait for a processor that is
    busy.
    """
    count = torch.get_num_threads()
    if count == 1 or hasattr(_leading, "count"):
        return work()
    inference = torch.is_inference_mode_enabled()

    def lead() -> _Result:
        _leading.count = count
        with torch.inference_mode() if inference else torch.no_grad():
            return work()

    return _leaders(count).submit(lead).result()


def alone(work: Callable[[], _Result]) -> _Result:
    """What ``work`` gives, done by one thread: for many small steps, in which several would wait for each other."""
    results: list[_Result] = []
    spread(lambda _: results.append(work()), [None])
    return results[0]


def paced(network: nn.Module, *inputs: Tensor) -> Tensor:
    """``network(*inputs)``, on the CPU by all of torch's threads or by one, whichever of late was quicker.

    Each of a network's layers ends when the last thread does: where another program keeps one of two processors busy,
    all together take three to ten times as long as one thread alone. What comes out is the same, to the bit.
    """
    if torch.get_num_threads() == 1 or inputs[0].device.type != "cpu":
        return network(*inputs)
    size = inputs[0].numel()
    # Small ones are slower for each number, by all and by one: only what is of about one size is compared.
    pace = _paces.setdefault(network, defaultdict(_Pace))[size.bit_length()]
    return pace.run(lambda: network(*inputs), size)


class _Pace:
    """How quick a network is, in seconds for each number that goes in."""

    def __init__(self) -> None:
        self._best = self._alone = math.inf  # of all threads together ever, of one of late
        self._slow = 0  # so many times in a row all together were slower than that
        self._ask = torch.get_num_threads() <= _FEW  # whether one is tried, to know how long it takes
        self._asked = self._until = 0.0  # when one may be tried again; so long one goes alone

    def run(self, work: Callable[[], _Result], size: int) -> _Result:
        start = time.perf_counter()
        by_one = start < self._until or (self._ask and self._best < math.inf)
        result = alone(work) if by_one else work()
        took = time.perf_counter() - start
        rest = start + (1 + _AGAIN) * took
        if by_one:
            self._alone = took / size
            if self._ask:
                self._ask, self._asked = False, rest
            return result
        self._best = min(self._best, took / size)
        self._slow = self._slow + 1 if took / size > min(_HELD_UP * self._best, self._alone) else 0
        if self._slow > 1 and took / size > self._alone:
            self._until = rest
        elif self._slow and start > self._asked:
            self._ask = True
        return result


_paces: WeakKeyDictionary[nn.Module, defaultdict[int, _Pace]] = WeakKeyDictionary()
_leading = threading.local()


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return single_threads(count, "faceparse")


@cache
def _leaders(count: int) -> ThreadPoolExecutor:
    return single_threads(count, "faceparse leader")  # they wait for workers, which wait for nobody


def single_threads(count: int, name: str) -> ThreadPoolExecutor:
    """So many threads for each of which torch has one; for the caller it has as many as before."""
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name)
    together = threading.Barrier(count + 1)

    def alone() -> None:
        torch.get_num_threads()  # the first time, torch gives a thread as many as all have
        torch.set_num_threads(1)
        together.wait()

    for _ in range(count):
        pool.submit(alone)
    together.wait()
    # It holds for the thread that sets it and for those that begin later: these are to be as they were.
    torch.set_num_threads(own)
    return pool


def _in_child() -> None:
    """A process that is forked has none of the threads, but torch would wait for its own: it gets on with one, until
    somebody sets another number there, if torch has not computed before the fork."""
    _workers.cache_clear()
    _leaders.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
