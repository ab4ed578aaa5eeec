"""CUDA graphs: the few hundred small kernels of a network, sent to the GPU at once; that is most of an image's time."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

# A larger batch keeps the GPU busy by itself.
LARGEST_BATCH = 4
# Graphs are kept for so many shapes, the last ones used; each holds the memory that its run takes.
_SHAPES = 4

_log = logging.getLogger("faceparse")


class Graphed(nn.Module):
    """A network on a CUDA GPU whose weights stay where they are; what it computes is unchanged.

    A shape is recorded when it comes for the second time, and replayed from then on. Where recording fails, one
    warning says so and the network goes on without.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self._seen: set[tuple] = set()
        self._replays: OrderedDict[tuple, Callable[[Tensor], Tensor]] = OrderedDict()
        self._works = True
        self._lock = threading.Lock()  # a graph has one input and one output, which threads must not share

    def forward(self, pixels: Tensor) -> Tensor:
        key = (tuple(pixels.shape), pixels.dtype)
        with self._lock:
            if not self._works or len(pixels) > LARGEST_BATCH or key not in self._seen:
                self._seen.add(key)
                return self.network(pixels)
            if key not in self._replays:
                try:
                    self._replays[key] = record(self.network, pixels)
                except RuntimeError as error:
                    _log.warning("CUDA graphs do not work here, going on without: %s", error)
                    self._works = False
                    return self.network(pixels)
                if len(self._replays) > _SHAPES:
                    self._replays.popitem(last=False)
            self._replays.move_to_end(key)
            return self._replays[key](pixels)


def record(network: nn.Module, pixels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that does what ``network`` does with ``pixels``, for other pixels of this shape."""
    given = pixels.clone()
    # Libraries choose their kernels in the first runs, which cannot be recorded.
    aside = torch.cuda.Stream(pixels.device)
    aside.wait_stream(torch.cuda.current_stream(pixels.device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            network(given)
    torch.cuda.current_stream(pixels.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = network(given)

    def replay(other: Tensor) -> Tensor:
        given.copy_(other)
        graph.replay()
        return result.clone()

    return replay
