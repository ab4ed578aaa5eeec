"""Trying on: glasses, a hat, earrings, a beard, a mask, laid on a face by its anchors.

A piece is an RGBA picture with the places of anchors in it. Each of its columns has a place along the line through the
eyes and each of its rows one across it: straight lines from anchor to anchor, so that on a head that turns away the far
half of a frame is as short as the face there. What lies in front of it, such as a fringe, stays in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.edits.anchors import Anchors, find_anchors
from faceparse_core.edits.each import among, changed, chosen, whose
from faceparse_core.edits.wardrobe import Piece
from faceparse_core.errors import enough_memory, number
from faceparse_core.faces import Axes, Face
from faceparse_core.images import Images
from faceparse_core.labels import region_ids
from faceparse_core.masks.reduced import averaged, box_mean, enlarged, pairs, parts_of
from faceparse_core.rendering import alone, spread

# Where rows have one anchor alone, they are as high as columns are wide on a head that looks ahead, within so much of
# what is natural.
_NATURAL = 0.12
# The shadow, in units: how far below the piece it falls and how soft it is. It falls on the person alone.
_BELOW, _SOFTNESS = 0.045, 0.05
_SHADED = region_ids("face + ears + neck")
# Shadows are blurred on a grid of so many cells to that softness.
_SHADOW_CELLS = 3
# Less of a piece than this is not seen, and leaves pixels as they are.
_FAINT = 1 / 512
# Neighbouring anchors lie at least so far apart, in units: on a far side they would change places.
_APART = 0.015


@enough_memory("the piece cannot be laid on")
def try_on(
    images: Images,
    what: Piece,
    labels: Tensor,
    faces: Sequence[Sequence[Face]],
    *,
    front: Tensor | None = None,
    face: int | str = "all",
    size: float = 1.0,
    up: float = 0.0,
    shadow: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The images with something tried on, float32 [B, H, W, 3] in 0..1, and what of it is seen in them, [B, H, W] in
    0..1; both on the CPU.

    ``images``: in any form that ``parse`` takes, ``labels``: their label map, uint8 [B, H, W], and ``faces``: of each
    its faces, as a ``Parsing`` has them. ``what``: see :func:`piece`. ``front``: what lies in front of it, [B, H, W] in
    0..1, best the soft mask of ``what.behind``; without it that is told from the labels. ``face``: whose: "all",
    "largest" or an index. ``size``: larger or smaller than it fits; ``up``: higher, in parts of the way from between
    the eyes to the mouth. ``shadow`` 0..1: how much of its shadow is seen.

    Where neither the piece nor its shadow is, the images stay as they are, to the bit. A face of which too little is
    seen wears nothing, and an ear that is not seen no earring. Raises ValueError where nobody in any of the images can
    wear it, for images, labels and faces that do not go together, and for values out of range.

    >>> from faceparse_core.edits.wardrobe import piece
    >>> try_on(torch.ones(8, 8, 3), piece("hat"), torch.zeros(1, 8, 8, dtype=torch.uint8), [[]])
    Traceback (most recent call last):
    ...
    ValueError: there is no face that the hat could be laid on: ...
    """
    whose(face)
    number("size", size, 0.2, 5)
    number("up", up, -3, 3)
    number("shadow", shadow, 0, 1)
    known = (labels[None] if labels.ndim == 2 else labels).cpu()
    frames, fronts = pairs(images, torch.zeros(known.shape) if front is None else front)
    if len(faces) != len(frames) or len(known) not in (1, len(frames)) or known.shape[1:] != fronts[0].shape:
        raise ValueError(
            f"{len(frames)} images of {fronts[0].shape[1]}x{fronts[0].shape[0]}, labels {list(known.shape)} and faces "
            f"of {len(faces)} images do not go together: give those of the images"
        )
    worn, cover = 0, torch.zeros(len(frames), *fronts[0].shape)

    def change(image: Tensor, before: Tensor, number: int) -> None:
        nonlocal worn
        here, found = known[number % len(known)], faces[number]
        # The farthest first: who is larger stands in front.
        for one in sorted(chosen(found, face), key=lambda each: each.width * each.height):
            anchors = find_anchors(here, one, [other for other in found if other is not one])
            for placed in _placed(what, anchors, size, up) if anchors else ():
                placed.lay(image, cover[number], here, None if front is None else before, what, shadow)
                worn += 1

    result = changed(frames, fronts, change, progress)
    if not worn:
        place = "ear" if any(chosen(found, face) for found in faces) and what.at else "face"
        raise ValueError(
            f"there is no {place} that the {what.name} could be laid on: its parts must be seen, eyes, nose or mouth"
            + (", and an ear" if what.at else "")
        )
    return result, cover


def _placed(what: Piece, anchors: Anchors, size: float, up: float) -> list[_Placed]:
    """Where a piece lies on a face: once, or on each ear that is seen."""
    if what.at:
        placed = []
        for name in what.at:
            if name in anchors.seen:
                x, y = anchors.in_picture(name)
                angle = 0.0 if what.hangs else anchors.frame.angle
                frame = Axes(x, y, anchors.frame.unit, angle)
                columns, rows = ([(one[""], 0.0)] for one in (what.across, what.down))
                scale = size / what.unit
                flipped = name.startswith("left ")
                placed.append(_Placed(frame, _Line(columns, scale), _Line([(rows[0][0], -up)], scale), flipped))
        return placed
    across = _Line([(x, anchors.points[name][0]) for name, x in what.across.items()], 1 / what.unit)
    tall = across.scale * what.unit / math.cos(math.radians(anchors.yaw))
    tall = min(max(tall, 1 - _NATURAL), 1 + _NATURAL) / what.unit
    down = _Line([(y, anchors.points[name][1]) for name, y in what.down.items()], tall)
    return [_Placed(anchors.frame, across.grown(size), down.grown(size).moved(-up), False)]


class _Line:
    """Pixels of a piece -> places on the face, along one axis: straight between knots, beyond them by ``scale``."""

    def __init__(self, knots: Sequence[tuple[float, float]], scale: float):
        pixels, places = (np.array(values, dtype=float) for values in zip(*sorted(knots), strict=True))
        if len(pixels) > 1:
            # Of the two in the middle: they are seen best.
            here = (len(pixels) - 1) // 2
            places[here + 1] = max(places[here + 1], places[here] + _APART)
            for i in range(here + 2, len(places)):
                places[i] = max(places[i], places[i - 1] + _APART)
            for i in range(here - 1, -1, -1):
                places[i] = min(places[i], places[i + 1] - _APART)
            scale = (places[here + 1] - places[here]) / (pixels[here + 1] - pixels[here])
            self.middle = (places[here] + places[here + 1]) / 2
        else:
            self.middle = places[0]
        self.scale, self.pixels, self.places = scale, pixels, places

    def grown(self, size: float) -> _Line:
        return self._with((self.places - self.middle) * size + self.middle, self.scale * size)

    def moved(self, by: float) -> _Line:
        return self._with(self.places + by, self.scale)

    def _with(self, places: np.ndarray, scale: float) -> _Line:
        line = object.__new__(_Line)
        line.pixels, line.places, line.scale, line.middle = self.pixels, places, scale, self.middle
        return line

    def to_place(self, pixel: float) -> float:
        return float(self._through(np.array([pixel], dtype=float), self.pixels, self.places, self.scale)[0])

    def to_pixel(self, place: np.ndarray, out: np.ndarray) -> None:
        self._through(place, self.places, self.pixels, 1 / self.scale, out)

    @staticmethod
    def _through(values: np.ndarray, knots: np.ndarray, results: np.ndarray, slope: float, out=None) -> np.ndarray:
        # A straight line, and from each knot on by how much the next is steeper.
        slopes = [slope, *(np.diff(results) / np.diff(knots)), slope]
        places = np.multiply(values, np.float32(slopes[0]), out=out)
        places += np.float32(results[0] - slopes[0] * knots[0])
        for knot, before, after in zip(knots, slopes[:-1], slopes[1:], strict=True):
            if after != before:
                places += np.maximum(values - np.float32(knot), 0) * np.float32(after - before)
        return places


@dataclass(frozen=True)
class _Placed:
    """A piece in its place: the frame of the face, and where in it its columns and rows lie."""

    frame: Axes
    across: _Line
    down: _Line
    flipped: bool

    def lay(
        self, image: Tensor, cover: Tensor, labels: Tensor, front: Tensor | None, what: Piece, shadow: float
    ) -> None:
        """Lays it on an image [H, W, 3], in place, and what is seen of it over ``cover``, [H, W]."""
        left, top, right, bottom = what.extent
        u = np.array([self.across.to_place(left), self.across.to_place(right)])
        v = np.array([self.down.to_place(top), self.down.to_place(bottom)])
        if self.flipped:
            u = -u[::-1]
        shade = what.shadow * shadow
        reach = (_BELOW + 3 * _SOFTNESS) if shade else 0.0
        x, y = self.frame.to_picture(np.array([u[0], u[1], u[0], u[1]]), np.array([v[0], v[0], v[1], v[1]]))
        spare = reach * self.frame.unit + 2
        columns = _inside(x, spare, image.shape[1])
        rows = _inside(y, spare, image.shape[0])
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return
        part = self._sampled(what.cover, rows, columns)
        known, seen, there = labels[rows, columns], cover[rows, columns], image[rows, columns]
        hidden = _soft(among(known, region_ids(what.behind)).float()) if front is None and what.behind else None
        shadow, factor = _shadow(part[3], self.frame) if shade else (part[None, :0], 1)

        def compose(band: slice) -> None:
            colour, alpha = part[:3, band], part[3, band]
            visible = 1 - front[rows, columns][band] if front is not None else torch.ones(alpha.shape)
            if hidden is not None:
                visible -= hidden[band]
            after = there[band].permute(2, 0, 1).contiguous()
            if shade:
                fallen = enlarged(shadow, factor, band, slice(0, alpha.shape[1]))[0, 0].mul_(visible)
                after *= fallen.mul_(among(known[band], _SHADED)).mul_(-shade).add_(1)
            # The colours are multiplied by their alpha already.
            covered = alpha * visible
            covered *= covered > _FAINT
            visible *= covered > 0
            after.mul_(1 - covered).add_(colour * visible)
            there[band] = after.clamp_(0, 1).permute(1, 2, 0)
            seen[band] += (1 - seen[band]).mul_(covered)

        spread(compose, parts_of(*known.shape))

    def _sampled(self, picture: Tensor, rows: slice, columns: slice) -> Tensor:
        """The piece, [h, w, 4], its colours multiplied by its alpha, in rows and columns of the image: [4, h, w]."""
        height, width = picture.shape[:2]
        # First about as small as it is seen, so that thin lines are not lost between the pixels.
        scale = min(1.0, 1.25 * self.frame.unit * max(self.across.scale, self.down.scale))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = pictures.resize(picture, size)
        small = F.pad(small.permute(2, 0, 1)[None], (1, 1, 1, 1))
        part = torch.empty(4, rows.stop - rows.start, columns.stop - columns.start)

        def sample(band: slice) -> None:
            x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + 0.5
            y = np.arange(rows.start + band.start, rows.start + band.stop, dtype=np.float32)[:, None] + 0.5
            u, v = self.frame.to_face(x, y)
            grid = np.empty((1, *u.shape, 2), dtype=np.float32)
            # The rim of one pixel is transparent, and what lies beyond it, too.
            for axis, line, places, own, length in (
                (0, self.across, -u if self.flipped else u, size[1], width),
                (1, self.down, v, size[0], height),
            ):
                line.to_pixel(places, out=grid[0, ..., axis])
                grid[..., axis] *= 2 * own / length / (own + 2)
                grid[..., axis] += 2 / (own + 2) - 1
            found = F.grid_sample(small, torch.from_numpy(grid), align_corners=False)[0].clamp_(0, 1)
            part[:, band] = found.mul_(found[3] > _FAINT)

        spread(sample, parts_of(*part.shape[1:]))
        return part


def _inside(places: np.ndarray, spare: float, length: int) -> slice:
    return slice(max(0, math.floor(places.min() - spare)), min(length, math.ceil(places.max() + spare)))


def _soft(mask: Tensor) -> Tensor:
    """A mask [h, w] with its edge a pixel or two soft."""
    return F.avg_pool2d(mask[None], 3, 1, 1, count_include_pad=False)[0]


def _shifted(mask: Tensor, down: int, across: int) -> Tensor:
    """A mask [h, w], moved; what comes in from beyond its border is 0."""
    height, width = mask.shape
    return F.pad(mask, (max(across, 0), max(-across, 0), max(down, 0), max(-down, 0)))[
        max(-down, 0) : max(-down, 0) + height, max(-across, 0) : max(-across, 0) + width
    ]


def _shadow(alpha: Tensor, frame: Axes) -> tuple[Tensor, int]:
    """The shadow that a piece throws: it, moved down along the face and blurred; averaged over squares, and their size:
    [1, 1, h, w]."""
    angle = math.radians(frame.angle)
    down, across = _BELOW * frame.unit * math.cos(angle), -_BELOW * frame.unit * math.sin(angle)
    moved = _shifted(alpha, round(down), round(across))
    reach = _SOFTNESS * frame.unit * 0.9
    factor = max(1, int(reach / _SHADOW_CELLS))
    small = averaged(moved, factor)[None, None]
    cells = max(1, round(reach / factor))
    spare = 2 * cells
    small = F.pad(small, (spare, spare, spare, spare))
    blurred = alone(lambda: box_mean(box_mean(small, cells), cells))
    return blurred[..., spare:-spare, spare:-spare], factor
