"""Euclidean distances from the edges of masks, to a fraction of a pixel, at a cost that hardly depends on the reach.

An edge is a set of points: where a mask passes a level, found between the centres of pixels, so that a soft edge is as
good as a finer picture. A k-d tree finds the nearest points for the corners of large cells. Between them distances
change almost linearly; cells where they do not, because they are too near or lie between two parts of the edge, are
split, in the end into pixels.
"""

from __future__ import annotations

import math

import numpy as np

_LARGEST, _SMALLEST = 32, 2
# Nearer than this each pixel asks for its own nearest point; farther off so much may be wrong, in pixels.
EXACT, _TOLERANCE = 3.0, 0.48
_TIE = 1e-7
_CORNERS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
_MIDDLES = ([0, 1], [2, 3], [0, 2], [1, 3], [0, 1, 2, 3])  # of which corners
_PIXELS_AT_A_TIME = 1 << 17


class Edge:
    """Points on the edges of a batch of masks of one size.

    ``frames`` [N] says to which mask each of the ``points`` [N, 2] (row, column; centres of pixels are whole numbers)
    belongs; ``shape`` is (B, H, W).
    """

    def __init__(self, frames: np.ndarray, points: np.ndarray, shape: tuple[int, int, int]):
        from scipy.spatial import cKDTree

        self.frames, self.points, self.shape = frames, points.astype(np.float32), shape
        self._rows_columns = np.ascontiguousarray(self.points.T)
        # All masks lie in one plane, farther from each other than any two points of one of them.
        # Cells may reach beyond a mask by one of theirs in each direction.
        self._span = 2 * (shape[1] + shape[2] + 2 * _LARGEST)
        plane = self._in_plane(frames, points)
        # Of points that are equally near always the same one is to be found, whatever else is in the batch.
        plane += _TIE * np.sin(points @ [[12.9898, 39.425], [78.233, 19.873]])
        self._tree = cKDTree(plane, leafsize=32, balanced_tree=False, compact_nodes=False)

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

    def distances(self, low: float, high: float, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The distance of each pixel from the edge of its mask, float32 [B, H, W], and the edge's point there.

        Exact up to ``EXACT`` pixels, beyond it within half a pixel. Pixels nearer than ``low`` may be given as 0, those
        farther than ``high`` as inf. The points, int32 [B, H, W], are told up to ``EXACT`` pixels and with ``indices``
        wherever there is a distance other than 0 and inf; elsewhere they mean nothing.
        """
        batch, height, width = self.shape
        down, across = -(-height // _LARGEST), -(-width // _LARGEST)
        found = np.full((batch, down * _LARGEST, across * _LARGEST), np.inf, dtype=np.float32)
        chosen = np.zeros(found.shape, dtype=np.int32)
        size, grid = _LARGEST, _Corners(self, batch, down + 1, across + 1)
        cells = np.indices((batch, down, across)).reshape(3, -1)
        while cells.size and len(self):
            half = size / math.sqrt(2)  # of the diagonal: so near is the nearest corner to any pixel
            # If one corner of a cell is near enough for a pixel in it, all are looked up.
            to_corners, near = grid.look_up(cells, size, high + 3 * half + 1)
            least, greatest = to_corners.min(axis=0), to_corners.max(axis=0)
            found_at = _blocks(found, size)
            within = greatest + half <= low
            found_at[_index(cells[:, within])] = 0
            is_open = (least - half <= high) & ~within
            cells, to_corners, near, least = cells[:, is_open], to_corners[:, is_open], near[:, is_open], least[is_open]
            # A point right between two corners is told size² / 8 / distance too much at most, a chord for an arc, and
            # twice as much too little if another part of the edge begins there.
            split = least < max(size**2 / 4 / _TOLERANCE, EXACT + half)
            split[~split] = self._is_bent(cells[:, ~split], size, to_corners[:, ~split], near[:, ~split])
            whole = ~split
            found_at[_index(cells[:, whole])] = _interpolated(to_corners[:, whole], size)
            if indices:
                self._choose(cells[:, whole], near[:, whole], size, chosen)
            cells = cells[:, split]
            if size == _SMALLEST:
                self._fill_exactly(cells, size, found_at, chosen, high)
                break
            size //= 2
            grid = grid.finer()
            cells = np.stack([cells[0], cells[1] * 2, cells[2] * 2])
            cells = np.concatenate([cells + np.array([[0], [i], [j]]) for i, j in _CORNERS], axis=1)
        return found[:, :height, :width], chosen[:, :height, :width]

    def _in_plane(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        plane = np.asarray(points, dtype=np.float64).copy()
        plane[:, 0] += frames * float(self._span)
        return plane

    def _is_bent(self, cells: np.ndarray, size: int, to_corners: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Whether distances in these cells are far from linear, because the corners see different parts of the edge.

        If their points lie close together, what tells is how much the slopes at the corners promise for the middle of
        the cell and of its sides; if not, how far these are from the points.
        """
        corners = (cells[1:, None] + _CORNERS.T[..., None]).astype(np.float32) * size
        points = self._rows_columns.take(near, axis=1)
        slopes = (corners - points) / to_corners
        together = np.ptp(points, axis=1).max(axis=0) < 1.5 * size
        bent = np.zeros(cells.shape[1], dtype=bool)
        for among in _MIDDLES:
            way = size * (_CORNERS[among].mean(axis=0) - _CORNERS[among]).astype(np.float32)
            promised = to_corners[among] + (slopes[:, among] * way.T[..., None]).sum(axis=0)
            away = points[:, among] - corners[:, among].mean(axis=1, keepdims=True)
            most = np.where(together, promised.min(axis=0), np.sqrt(np.square(away).sum(axis=0).min(axis=0)))
            # Where two slopes meet elsewhere, more is missed than in the middle.
            bent |= most - to_corners[among].mean(axis=0) > _TOLERANCE / 4
        return bent

    def _choose(self, cells: np.ndarray, near: np.ndarray, size: int, chosen: np.ndarray) -> None:
        """The nearest of the points of a cell's corners, for each pixel of the cells.

        |pixel - point|² is |pixel|² and a linear function of the pixel: one small product for all pixels of a cell.
        """
        offsets = np.indices((size, size), dtype=np.float32).reshape(2, -1)
        linear = np.vstack([-2 * offsets, np.ones_like(offsets[:1])])
        parts = -(-cells.shape[1] * size**2 // _PIXELS_AT_A_TIME) or 1
        for part, points in zip(np.array_split(cells, parts, axis=1), np.array_split(near, parts, axis=1), strict=True):
            best, which = np.inf, np.zeros((part.shape[1], size**2), dtype=np.int32)
            for candidate in points:
                away = self._rows_columns.take(candidate, axis=1) - part[1:] * np.float32(size)
                result = np.vstack([away, np.square(away).sum(0)]).T @ linear
                np.copyto(which, candidate[:, None], where=result < best)
                best = np.minimum(best, result)
            _blocks(chosen, size)[_index(part)] = which.reshape(-1, size, size)

    def _fill_exactly(self, cells: np.ndarray, size: int, found_at, chosen, high: float) -> None:
        pixels = np.indices((size, size)).reshape(2, -1).T
        for part in np.array_split(cells, -(-cells.shape[1] * size**2 // (8 * _PIXELS_AT_A_TIME)) or 1, axis=1):
            places = (part[1:].T[:, None] * size + pixels).reshape(-1, 2)
            distance, near = self.nearest(np.repeat(part[0], size**2), places, high + 1e-3)
            found_at[_index(part)] = distance.reshape(-1, size, size)
            _blocks(chosen, size)[_index(part)] = near.reshape(-1, size, size)


class _Corners:
    """The corners of cells: how far they are from the edge and the index of its point there, as far as looked up."""

    def __init__(self, edge: Edge, batch: int, rows: int, columns: int):
        self.edge = edge
        self.distance = np.full((batch, rows, columns), np.nan, dtype=np.float32)
        self.point = np.zeros(self.distance.shape, dtype=np.int32)

    def look_up(self, cells: np.ndarray, size: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Distances and points of the four corners of the cells, [4, cells]; inf beyond ``reach``."""
        at = np.stack([np.ravel_multi_index(cells + np.array([[0], [i], [j]]), self.point.shape) for i, j in _CORNERS])
        distance, point = self.distance.reshape(-1), self.point.reshape(-1)
        unknown = np.zeros(distance.shape, dtype=bool)
        unknown[at[np.isnan(distance[at])]] = True
        new = np.flatnonzero(unknown)
        frames, *place = np.unravel_index(new, self.point.shape)
        distance[new], point[new] = self.edge.nearest(frames, np.column_stack(place) * size, reach)
        return distance[at], point[at]

    def finer(self) -> _Corners:
        """The corners of cells of half the size."""
        batch, rows, columns = self.point.shape
        result = _Corners(self.edge, batch, 2 * rows - 1, 2 * columns - 1)
        result.distance[:, ::2, ::2], result.point[:, ::2, ::2] = self.distance, self.point
        return result


def _interpolated(corners: np.ndarray, size: int) -> np.ndarray:
    """Bilinear between the corners [4, cells] of cells: [cells, size, size]."""
    share = np.arange(size, dtype=np.float32) / size
    ends = np.stack([1 - share, share])
    weights = np.einsum("ir,jc->ijrc", ends, ends).reshape(4, -1)
    return (corners.T @ weights).reshape(-1, size, size)


def _blocks(image: np.ndarray, size: int) -> np.ndarray:
    """The same memory as [B, rows of cells, size, columns of cells, size]."""
    batch, height, width = image.shape
    return image.reshape(batch, height // size, size, width // size, size)


def _index(cells: np.ndarray) -> tuple:
    return cells[0], cells[1], slice(None), cells[2]


def crossings(masks: np.ndarray, levels: np.ndarray) -> Edge:
    """Where masks, float32 [B, H, W], pass their ``levels`` [B]: between neighbours, interpolated linearly."""
    inside = masks >= levels[:, None, None]
    frames, points = [], []
    for axis in (1, 2):
        step = (1, 0) if axis == 1 else (0, 1)
        before, after = _neighbouring(inside, axis)
        frame, row, column = places(before ^ after)
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
    frame, row, column = places(border)
    return Edge(frame, np.column_stack([row, column]), inside.shape)


def _neighbouring(image: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (image[:, :-1], image[:, 1:]) if axis == 1 else (image[:, :, :-1], image[:, :, 1:])


def places(where: np.ndarray) -> tuple[np.ndarray, ...]:
    """The indices of what is true; quicker than ``np.nonzero`` when that is little."""
    return np.unravel_index(np.flatnonzero(where), where.shape)
