"""The outline of a mask: where it passes half-way, how far each pixel is from there, and edges moved and softened."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from faceparse_core.masks import distances

# So many stay in the processor's cache.
_CACHED = 1 << 17
# Beyond so many pixels from its outline a soft edge is cut off when it is moved; so many values stand for each half.
_SOFTEST, _PLACES = 256, 16


def bounds(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each mask, [B, 1, 1]."""
    return masks.min(axis=(1, 2), keepdims=True), masks.max(axis=(1, 2), keepdims=True)


def is_hard(masks: np.ndarray) -> np.ndarray:
    return ((masks == 0) | (masks == 1)).all(axis=(1, 2))


def within(inside: np.ndarray, distance: float) -> np.ndarray:
    """The pixels that are no farther than this from a pixel of their set, bool [B, H, W]."""
    edge = distances.border_pixels(inside)
    found, _ = edge.distances(distance - 1, distance + 1)
    result = inside | (found <= distance - 0.5)
    # What is far off may be told half a pixel too much or too little.
    frames, rows, columns = distances.places(~result & (found <= distance + 0.5))
    exact, _ = edge.nearest(frames, np.column_stack([rows, columns]))
    result[frames, rows, columns] = exact <= distance + 1e-6
    return result


class _Outline:
    """Where masks pass half-way, with the direction straight across the edge at each of its points."""

    def __init__(self, masks: np.ndarray):
        self.masks = masks
        self.low, self.high = bounds(masks)
        self.level = (self.low + self.high) / 2
        self.edge = distances.crossings(masks, self.level[:, 0, 0])
        here, by_row, by_column = self.edge.points, np.array([1, 0], np.float32), np.array([0, 1], np.float32)
        slope = [self.values(self.edge.frames, here + step) - self.values(self.edge.frames, here - step)
                 for step in (by_row, by_column)]  # fmt: skip
        slope = np.column_stack(slope)
        self.inwards = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)

    def values(self, frames: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The masks' values between the centres of pixels, bilinear."""
        height, width = self.masks.shape[1:]
        row, column = points[:, 0].clip(0, height - 1), points[:, 1].clip(0, width - 1)
        top, left = row.astype(np.int64), column.astype(np.int64)
        bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down, across = row - top, column - left
        upper = self.masks[frames, top, left] * (1 - across) + self.masks[frames, top, right] * across
        lower = self.masks[frames, bottom, left] * (1 - across) + self.masks[frames, bottom, right] * across
        return upper * (1 - down) + lower * down

    def signed(self, low: float, high: float, *, indices: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Distances, positive inside, and the indices of the points, as ``Edge.distances`` gives them."""
        found, chosen = self.edge.distances(low, high, indices=indices)
        # The points are up to a pixel apart. Beside one of them, the line through it across the slope is meant.
        near = found < distances.EXACT
        if low > 0:
            near &= found > 0
        frames, rows, columns = distances.places(near)
        if len(frames):
            which = chosen[frames, rows, columns]
            away = np.column_stack([rows, columns]) - self.edge.points[which]
            inwards = self.inwards[which]
            across = (away * inwards).sum(1)
            along = np.abs(away[:, 0] * inwards[:, 1] - away[:, 1] * inwards[:, 0])
            found[frames, rows, columns] = np.hypot(across, np.maximum(along - 0.75, 0))
        for rows in bands(self.masks.shape[1], self.masks[:, 0].size, _CACHED):
            np.copysign(found[:, rows], self.masks[:, rows] - self.level, out=found[:, rows])
        return found, chosen

    def softness(self) -> np.ndarray:
        """How far from its outline each mask still changes, in pixels, [B]; 3 at least."""
        step = (self.high - self.low) / 64
        soft = (self.masks > self.low + step) & (self.masks < self.high - step)
        frames, rows, columns = distances.places(soft)
        cells = np.zeros((soft.shape[0], soft.shape[1] // 4 + 1, soft.shape[2] // 4 + 1), dtype=bool)
        cells[frames, rows // 4, columns // 4] = True
        frames, rows, columns = np.nonzero(cells)
        distance, _ = self.edge.nearest(frames, np.column_stack([rows, columns]) * 4 + 1.5)
        farthest = np.zeros(len(soft))
        np.maximum.at(farthest, frames, np.where(np.isfinite(distance), distance, 0))
        return np.minimum(farthest + 3, _SOFTEST)

    def profiles(self, reach: np.ndarray) -> np.ndarray:
        """What lies straight across the outline, from ``reach`` [N] outside to as far inside, [N, places].

        Never less than what lies farther out: behind the ridge of a strand stays the height of the ridge.
        """
        profile = np.empty((len(self.edge), 2 * _PLACES + 1), dtype=np.float32)
        for i, share in enumerate(np.linspace(-1, 1, profile.shape[1], dtype=np.float32)):
            places = self.edge.points + self.inwards * (share * reach)[:, None]
            profile[:, i] = self.values(self.edge.frames, places)
        return np.maximum.accumulate(profile, axis=1)


def carried(masks: np.ndarray, distance: float) -> np.ndarray:
    """Masks grown by any distance: each pixel takes what lies this far inwards of it, straight across the outline."""
    outline = _Outline(masks)
    if not len(outline.edge):
        return masks.copy()
    softness = outline.softness()
    reach = softness.astype(np.float32)[outline.edge.frames]
    profiles = outline.profiles(reach)
    flat = np.ptp(profiles[:, -1]) < 1e-6  # then it does not matter which point is nearest, deep inside
    known = distance - softness.max() if flat else 0.0  # nearer than this, all of the rise is there
    signed, chosen = outline.signed(known, distance + softness.max(), indices=True)
    result = masks.copy()
    if known > 0:
        all_of_it = signed == 0
        np.maximum(result, profiles[0, -1], out=result, where=all_of_it)
        signed[all_of_it] = np.inf
    places = np.flatnonzero(np.isfinite(signed))
    here, which, given = (values.ravel()[places] for values in (signed, chosen, masks))
    there = here + distance

    def profile(depth: np.ndarray) -> np.ndarray:
        place = (depth / reach[which]).clip(-1, 1) * _PLACES + _PLACES
        first = np.minimum(place.astype(np.int64), 2 * _PLACES - 1)
        before = profiles[which, first]
        return before + (profiles[which, first + 1] - before) * (place - first).astype(np.float32)

    # The rise is added, so that what differs from its profile (beside the ends of an outline, say) does so afterwards;
    # but the outline itself lies where it should.
    frames = outline.edge.frames[which]
    level, high = outline.level.ravel()[frames], outline.high.ravel()[frames]
    carried = np.minimum(given + np.maximum(profile(there) - profile(here), 0), high)
    carried = np.where(there >= 0, np.maximum(carried, level), np.minimum(carried, np.maximum(given, level)))
    deep = there >= reach[which]
    carried[deep] = np.maximum(given, profiles[which, -1])[deep]
    result.ravel()[places] = carried
    return result


def softened(masks: np.ndarray, width: float, direction: str) -> np.ndarray:
    outline = _Outline(masks)
    width = max(width, 1e-3)  # what is narrower is as hard, and its inverse no float32
    inside, outside = {"both": (width / 2, width / 2), "inward": (width, 0), "outward": (0, width)}[direction]
    signed, _ = outline.signed(0, max(inside, outside))
    result = masks.copy()
    for rows in bands(masks.shape[1], masks[:, 0].size, _CACHED):
        share, given = signed[:, rows], masks[:, rows]
        if np.isinf(share).all():
            continue
        is_inside = share >= 0
        share += np.float32(outside)
        share *= np.float32(1 / width)
        share = share.clip(0, 1, out=share)
        ramp = (3 - 2 * share) * np.square(share, out=share)
        ramp *= outline.high - outline.low
        ramp += outline.low
        inner = np.minimum(given, ramp) if inside else given
        outer = np.maximum(given, ramp) if outside else given
        result[:, rows] = np.where(is_inside, inner, outer)
    return result


def bands(height: int, width: int, pixels: int, multiple: int = 1) -> Iterator[slice]:
    """Rows from the top down, a ``multiple`` at a time, of about so many ``pixels`` together."""
    rows = max(1, pixels // width // multiple) * multiple
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))
