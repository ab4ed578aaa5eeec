"""Euclidean distances from the edges of masks, to a fraction of a pixel, at a cost that hardly depends on the reach.

An edge is a set of points: where a mask passes a level, found between the centres of pixels, so that a soft edge is as
good as a finer picture. A k-d tree finds the nearest point for the centres of large cells; cells that are too near, or
whose neighbours found points elsewhere, are split, in the end into pixels. The pixels of the others choose among the
points that their cell and its neighbours found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_LARGEST, _SMALLEST = 32, 8
_NOWHERE = 1e6
_TIE = 1e-7
_SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_PIXELS_AT_A_TIME = 1 << 16


class Edge:
    """Points on the edges of a batch of masks of one size.

    ``frames`` [N] says to which mask each of the ``points`` [N, 2] (row, column; centres of pixels are whole numbers)
    belongs; ``shape`` is (B, H, W).
    """

    def __init__(self, frames: np.ndarray, points: np.ndarray, shape: tuple[int, int, int]):
        from scipy.spatial import cKDTree

        self.frames, self.points, self.shape = frames, points.astype(np.float32), shape
        # All masks lie in one plane, farther from each other than any two points of one of them.
        self._span = 2 * (shape[1] + shape[2] + _LARGEST)
        plane = self._in_plane(frames, points)
        # Of points that are equally near always the same one is to be found, whatever else is in the batch.
        plane += _TIE * np.sin(points @ [[12.9898, 39.425], [78.233, 19.873]])
        self._tree = cKDTree(plane, balanced_tree=False, compact_nodes=False)

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, frames: np.ndarray, points: np.ndarray, reach: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
        """For each of M points [M, 2] its distance from the edge and the index of the edge's point there.

        Where none is nearer than ``reach``, the distance is inf and the index the number of points.
        """
        import torch

        return self._tree.query(
            self._in_plane(frames, points),
            distance_upper_bound=min(reach, self._span / 2),
            workers=torch.get_num_threads(),
        )

    def distances(self, low: float, high: float, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """The distance of each pixel from the edge of its mask, float32 [B, H, W], where it is in ``low`` .. ``high``.

        Exact near the edge and never too small; far from it half a pixel too large at most. Pixels nearer than ``low``
        may be given as 0, those farther than ``high`` as inf. With ``indices`` also the point that is meant, int32
        [B, H, W], where there is a distance other than 0 and inf.
        """
        batch, height, width = self.shape
        down, across = -(-height // _LARGEST), -(-width // _LARGEST)
        found = np.full((batch, down * _LARGEST, across * _LARGEST), np.inf, dtype=np.float32)
        chosen = np.zeros(found.shape, dtype=np.int32) if indices else None
        size, near_points = _LARGEST, np.full((batch, down, across), len(self), dtype=np.int32)
        cells = np.indices(near_points.shape).reshape(3, -1)
        while cells.size and len(self):
            half = size / math.sqrt(2)  # of the diagonal
            to_cell, near = self.nearest(cells[0], cells[1:].T * size + (size - 1) / 2, high + half)
            near_points[tuple(cells)] = near
            found_at = _blocks(found, size)
            within = to_cell + half <= low
            found_at[_index(cells[:, within])] = 0
            open_ones = np.isfinite(to_cell) & ~within
            # A neighbour's point is half its size to the side: beyond this distance that makes less than 0.5.
            split = open_ones & ((to_cell < size**2 / 2 + half) | self._is_torn(cells, to_cell, near_points, size))
            self._fill(cells[:, open_ones & ~split], near_points, size, found_at, chosen)
            cells = cells[:, split]
            if size == _SMALLEST:
                self._fill_exactly(cells, size, found_at, chosen, high)
                break
            size //= 2
            near_points = near_points.repeat(2, 1).repeat(2, 2)
            cells = np.stack([cells[0], cells[1] * 2, cells[2] * 2])
            cells = np.concatenate([cells + np.array([[0], [i], [j]]) for i in (0, 1) for j in (0, 1)], axis=1)
        found[found > high] = np.inf
        return found[:, :height, :width], None if chosen is None else chosen[:, :height, :width]

    def _in_plane(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        plane = np.asarray(points, dtype=np.float64).copy()
        plane[:, 0] += frames * float(self._span)
        return plane

    def _point(self, indices: np.ndarray) -> np.ndarray:
        """Points by their indices; the one after the last is where there is none."""
        return np.append(self.points, np.float32([[_NOWHERE, _NOWHERE]]), axis=0)[indices]

    def _is_torn(self, cells: np.ndarray, to_cell: np.ndarray, near_points: np.ndarray, size: int) -> np.ndarray:
        """Whether neighbours of these cells see their nearest points in directions too different from the cells' own.

        For directions that differ by an angle, a pixel between them is told size * angle / 8 too much at most. At the
        border of the image there is nobody to ask.
        """
        limit = np.maximum(2 * size, 3 / size * to_cell)
        own = self._point(near_points[tuple(cells)])
        rows, columns = near_points.shape[1:]
        torn = (cells[1] % (rows - 1 or 1) == 0) | (cells[2] % (columns - 1 or 1) == 0)
        for neighbour in _neighbours(cells, near_points, _SIDES + _CORNERS):
            away = np.abs(self._point(neighbour) - own).max(axis=1)
            torn |= (away > limit) & (neighbour < len(self))
        return torn

    def _fill(self, cells: np.ndarray, near_points: np.ndarray, size: int, found_at, chosen) -> None:
        """The least distance from the points of a cell and of its neighbours, for each pixel of the cells.

        |pixel - point|² is |pixel|² and a linear function of the pixel: one small product for all pixels of a cell.
        """
        offsets = np.indices((size, size), dtype=np.float32).reshape(2, -1) - (size - 1) / 2
        linear, squares = np.vstack([-2 * offsets, np.ones_like(offsets[:1])]), np.square(offsets).sum(0)
        for part in np.array_split(cells, -(-cells.shape[1] * size**2 // _PIXELS_AT_A_TIME) or 1, axis=1):
            centres = part[1:].T * np.float32(size) + np.float32((size - 1) / 2)
            best = np.full((part.shape[1], size**2), np.inf, dtype=np.float32)
            which = np.zeros(best.shape, dtype=np.int32) if chosen is not None else None
            for candidate in (near_points[tuple(part)], *_neighbours(part, near_points, _SIDES + _CORNERS)):
                away = self._point(candidate) - centres
                result = np.column_stack([away, np.square(away).sum(1)]) @ linear
                if which is not None:
                    np.copyto(which, candidate[:, None], where=result < best)
                np.minimum(best, result, out=best)
            best += squares
            found_at[_index(part)] = np.sqrt(best.clip(0, out=best), out=best).reshape(-1, size, size)
            if which is not None:
                _blocks(chosen, size)[_index(part)] = which.reshape(-1, size, size)

    def _fill_exactly(self, cells: np.ndarray, size: int, found_at, chosen, high: float) -> None:
        pixels = np.indices((size, size)).reshape(2, -1).T
        for part in np.array_split(cells, -(-cells.shape[1] * size**2 // (8 * _PIXELS_AT_A_TIME)) or 1, axis=1):
            places = (part[1:].T[:, None] * size + pixels).reshape(-1, 2)
            distance, near = self.nearest(np.repeat(part[0], size**2), places, high + 1e-3)
            found_at[_index(part)] = distance.reshape(-1, size, size)
            if chosen is not None:
                _blocks(chosen, size)[_index(part)] = near.reshape(-1, size, size)


def _blocks(image: np.ndarray, size: int) -> np.ndarray:
    """The same memory as [B, rows of cells, size, columns of cells, size]."""
    batch, height, width = image.shape
    return image.reshape(batch, height // size, size, width // size, size)


def _index(cells: np.ndarray) -> tuple:
    return cells[0], cells[1], slice(None), cells[2]


def _neighbours(cells: np.ndarray, near_points: np.ndarray, directions) -> Iterator[np.ndarray]:
    for down, across in directions:
        rows = (cells[1] + down).clip(0, near_points.shape[1] - 1)
        columns = (cells[2] + across).clip(0, near_points.shape[2] - 1)
        yield near_points[cells[0], rows, columns]


def crossings(masks: np.ndarray, levels: np.ndarray) -> Edge:
    """Where masks, float32 [B, H, W], pass their ``levels`` [B]: between neighbours, interpolated linearly."""
    inside = masks >= levels[:, None, None]
    frames, points = [], []
    for axis in (1, 2):
        step = (1, 0) if axis == 1 else (0, 1)
        before, after = _neighbouring(inside, axis)
        frame, row, column = _places(before ^ after)
        here, there = masks[frame, row, column], masks[frame, row + step[0], column + step[1]]
        share = (levels[frame] - here) / (there - here)
        frames.append(frame)
        points.append(np.column_stack([row + step[0] * share, column + step[1] * share]))
    return Edge(np.concatenate(frames), np.concatenate(points), masks.shape)


def border_pixels(inside: np.ndarray) -> Edge:
    """The centres of those pixels of the sets, bool [B, H, W], that have a neighbour, by their sides, outside."""
    border = np.zeros_like(inside)
    for axis in (1, 2):
        before, after = _neighbouring(inside, axis)
        for here, change in zip(_neighbouring(border, axis), (before & ~after, after & ~before), strict=True):
            here |= change
    frame, row, column = _places(border)
    return Edge(frame, np.column_stack([row, column]), inside.shape)


def _neighbouring(image: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (image[:, :-1], image[:, 1:]) if axis == 1 else (image[:, :, :-1], image[:, :, 1:])


def _places(where: np.ndarray) -> tuple[np.ndarray, ...]:
    return np.unravel_index(np.flatnonzero(where), where.shape)
