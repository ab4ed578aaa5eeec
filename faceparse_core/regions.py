"""Regions that no label has: forehead, cheeks, chin, under the eyes, T-zone; drawn from the parts that labels show.

The eyes, the nose and the mouth give a face axes of its own, whatever its tilt: the origin between the eyes, one unit
as long as the way from there to the mouth. In them the outlines are drawn through landmarks taken from the label map
(corners of eyes, brows and mouth, wings of the nose, edge of the skin, chin), so that they follow a face that turns
away. What is measured in units below was read off the portraits of CelebAMask-HQ.

An outline may run over brows, hair or background: a region is what of it lies on the labels it is drawn on, see
``labels.DRAWN``. Hence a fringe hides the forehead, and sunglasses hide what is under the eyes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceparse_core.faces import Face
from faceparse_core.labels import DRAWN, GROUPS, NUM_LABELS, Region, region_ids
from faceparse_core.rendering import samples

# Where a part lies along the axis from the eyes (0) to the mouth (1), for axes where something is missing.
_NOSE_LEVEL, _BROW_LEVEL = 0.37, -0.23
# The standard deviation of an outline's soft edge, in units; the whole edge is about a twentieth of the face.
_SOFTNESS = 0.035
# The corners (u, v) of the rectangle that holds all outlines with their soft edges.
_REACH = ((-1.45, -1.75), (1.45, -1.75), (1.45, 2.15), (-1.45, 2.15))
# A face is looked at, and its outlines are drawn, on a grid with this many cells along its longer side.
_CELLS = 192
# Parts of fewer cells, as a share of the face's, are noise.
_SMALLEST_PART = 0.0005
# How far from the middle of a face's box its parts lie, as a share of its half sides, squared.
_OVAL = 1.25
# Below so many pixels from the eyes to the mouth nothing can be drawn.
_SMALLEST_UNIT = 2

(_SKIN,), (_NOSE,), (_GLASSES,) = (region_ids(name) for name in ("skin", "nose", "eyeglasses"))
_EYES, _BROWS, _MOUTH, _FACE = (GROUPS[name] for name in ("eyes", "brows", "mouth_area", "face"))


@dataclass(frozen=True)
class Axes:
    """The axes of a face: the point between the eyes (``x``, ``y`` in pixels), the length in pixels from there to the
    mouth (``unit``), and how far the face is turned clockwise in the picture (``angle``, degrees in -180..180)."""

    x: float
    y: float
    unit: float
    angle: float

    def to_face(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of points in the picture: u towards the subject's left, v from the eyes down to the mouth."""
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        x, y = (x - self.x) / self.unit, (y - self.y) / self.unit
        return x * cosine + y * sine, y * cosine - x * sine

    def to_picture(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) in the picture of points of the face."""
        sine, cosine = math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))
        return self.x + (u * cosine - v * sine) * self.unit, self.y + (u * sine + v * cosine) * self.unit


@dataclass(frozen=True)
class Drawing:
    """The drawn regions of a face: ``shapes``, float32 [h, w] in 0..1 by name, each laid over one rectangle of the
    picture, ``x, y, width, height`` in pixels. Outside of it there is none of them."""

    x: int
    y: int
    width: int
    height: int
    shapes: dict[str, Tensor]

    def shown(self, name: str, rows: slice, columns: slice, *, soft: bool) -> Tensor:
        """A shape in rows and columns of the rectangle at the picture's size, float32; 0 or 1 unless ``soft``."""
        shape = self.shapes[name]
        upper, lower, down = (each[rows] for each in samples(self.height, 0, self.height, len(shape), shape.device))
        left, right, across = (
            each[columns] for each in samples(self.width, 0, self.width, shape.shape[1], shape.device)
        )
        tall = torch.lerp(shape[upper], shape[lower], down[:, None])
        values = torch.lerp(tall[:, left], tall[:, right], across)
        return values if soft else (values >= 0.5).float()


def face_axes(labels: Tensor, face: Face) -> Axes | None:
    """The axes of a face in a label map, uint8 [H, W]; None where too little of it is seen.

    They come from the eyes and the mouth. Where these are hidden, by hair, glasses, a hand or as the head turns away,
    the nose helps, and an eye, glasses or brows that are seen: of both eyes, nose and mouth two must be there.
    """
    seen = _look(labels, face)
    return seen and seen.axes


def draw(labels: Tensor, face: Face, names: Sequence[str] = tuple(DRAWN)) -> Drawing | None:
    """Drawn regions of a face in a label map, uint8 [H, W]; ``names``: those of ``labels.DRAWN`` that are needed.

    They are outlines with soft edges that do not know what they lie on: multiply by the labels of which they are a
    part. So a side that is turned away, where there is no skin, has no cheek. None where there are no axes (see
    ``face_axes``), or if all of them lie outside of the picture.
    """
    seen = _look(labels, face)
    if seen is None:
        return None
    points = {name: [seen.axes.to_picture(*line.T) for line in lines] for name, lines in _outlines(seen, names).items()}
    height, width = labels.shape
    # One rectangle whatever is drawn, so that a region does not depend on what else is asked for.
    x, y = seen.axes.to_picture(*np.array(_REACH).T)
    left, right = max(0, math.floor(x.min())), min(width, math.ceil(x.max()))
    top, bottom = max(0, math.floor(y.min())), min(height, math.ceil(y.max()))
    if left >= right or top >= bottom:
        return None
    step = max(1.0, max(right - left, bottom - top) / _CELLS)
    size = math.ceil((bottom - top) / step), math.ceil((right - left) / step)
    scale = size[1] / (right - left), size[0] / (bottom - top)
    shapes = torch.zeros(len(points), *size)
    for shape, lines in zip(shapes, points.values(), strict=True):
        for x, y in lines:
            filled = torch.from_numpy(_filled((x - left) * scale[0], (y - top) * scale[1], size))
            torch.maximum(shape, filled, out=shape)
    shapes = _blurred(shapes, _SOFTNESS * seen.axes.unit / step)
    return Drawing(left, top, right - left, bottom - top, dict(zip(points, shapes, strict=True)))


def extras(
    region: Region, drawings: Iterable[Drawing | None], rows: slice, columns: slice, *, soft: bool
) -> Iterator[tuple[int, tuple[slice, slice], Tensor]]:
    """What a region has of labels on drawings beyond what it has where nothing is drawn: (label, where, extra).

    ``rows`` and ``columns`` are a part of the picture, and ``where`` are rows and columns within this part; ``extra``
    is the share of the label that is added to each pixel there, or taken from it if negative: float32 [rows, columns]
    in -1..1, whole numbers unless ``soft``.
    """
    for drawing in drawings:
        if drawing is None:
            continue
        top, bottom = max(rows.start, drawing.y), min(rows.stop, drawing.y + drawing.height)
        left, right = max(columns.start, drawing.x), min(columns.stop, drawing.x + drawing.width)
        if top >= bottom or left >= right:
            continue
        where = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
        part = slice(top - drawing.y, bottom - drawing.y), slice(left - drawing.x, right - drawing.x)
        shapes = {name: drawing.shown(name, *part, soft=soft) for name in region.shapes}
        for label, steps in region.drawn.items():
            before = float(label in region.ids)
            share = torch.tensor(before)
            for operator, name in steps:
                shape = shapes[name]
                share = torch.maximum(share, shape) if operator == "+" else torch.minimum(share, 1 - shape)
            yield label, where, share - before


# ---------------------------------------------------------------------------------------------- landmarks


@dataclass(frozen=True)
class _Seen:
    """The coarse cells of a face in its axes: of each label the places (u, v) of its cells."""

    axes: Axes
    cells: dict[int, tuple[np.ndarray, np.ndarray]]
    fewest: float  # fewer cells than this are noise

    def part(self, *labels: int) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of the cells of these labels."""
        u, v = zip(*(self.cells[label] for label in labels), strict=True)
        return np.concatenate(u), np.concatenate(v)


def _look(labels: Tensor, face: Face) -> _Seen | None:
    """The face in coarse cells, with its axes; None where there are none."""
    height, width = labels.shape
    spare_x, spare_y = face.width // 8, face.height // 8
    left, top = max(0, face.x - spare_x), max(0, face.y - spare_y)
    right, bottom = min(width, face.x + face.width + spare_x), min(height, face.y + face.height + spare_y)
    step = max(1, max(right - left, bottom - top) // _CELLS)
    cells = labels[top:bottom:step, left:right:step].cpu().numpy()
    is_face = np.zeros(256, dtype=bool)
    is_face[list(_FACE)] = True
    down, across = is_face[cells].nonzero()
    # The centre of the pixel that was looked at.
    x, y = left + across * step + 0.5, top + down * step + 0.5
    # Beside the oval of the face in its box are parts of other faces, if any.
    oval = ((x - face.x) / face.width * 2 - 1) ** 2 + ((y - face.y) / face.height * 2 - 1) ** 2 < _OVAL
    keep = oval | (cells[down, across] == _SKIN)
    label, x, y = cells[down, across][keep], x[keep], y[keep]

    count = np.bincount(label, minlength=NUM_LABELS)
    mean_x, mean_y = (np.bincount(label, values, NUM_LABELS) / count.clip(1) for values in (x, y))
    fewest = max(2, _SMALLEST_PART * len(label))

    def centre(*ids: int) -> np.ndarray | None:
        ids = list(ids)
        if count[ids].sum() < fewest:
            return None
        return np.array([np.average(mean_x[ids], weights=count[ids]), np.average(mean_y[ids], weights=count[ids])])

    axes = _axes(centre)
    if axes is None:
        return None
    u, v = axes.to_face(x, y)
    return _Seen(axes, {part: (u[label == part], v[label == part]) for part in _FACE}, fewest)


def _axes(centre: Callable[..., np.ndarray | None]) -> Axes | None:
    """The axes from the ``centre`` (x, y) of labels, which is None for those that are not seen."""
    left_eye, right_eye, nose, mouth = centre(_EYES[0]), centre(_EYES[1]), centre(_NOSE), centre(*_MOUTH)
    both = left_eye is not None and right_eye is not None
    if both and mouth is not None:
        between = (left_eye + right_eye) / 2
    elif both and nose is not None:
        between = (left_eye + right_eye) / 2
        mouth = between + (nose - between) / _NOSE_LEVEL
    elif nose is not None and mouth is not None:
        # Both lie on the middle line of the face; how far up the eyes are, what is seen there tells better.
        between = nose - (mouth - nose) * (_NOSE_LEVEL / (1 - _NOSE_LEVEL))
        hints = ((centre(*_EYES), 0.0), (centre(_GLASSES), 0.0), (centre(*_BROWS), _BROW_LEVEL))
        place, level = next(((place, level) for place, level in hints if place is not None), (between, 0.0))
        length = np.linalg.norm(mouth - between)
        if length:
            reach = (mouth - place) @ (mouth - between) / length / (1 - level)
            between = mouth - (mouth - between) * (max(reach, 0.0) / length)
    else:
        return None
    unit = float(np.linalg.norm(mouth - between))
    if unit < _SMALLEST_UNIT:
        return None
    angle = math.degrees(math.atan2(between[0] - mouth[0], mouth[1] - between[1]))
    if both:
        # The line through the eyes is steady where the head turns, that to the mouth where it nods: their mean.
        line = left_eye - right_eye
        tilt = (math.degrees(math.atan2(line[1], line[0])) - angle + 180) % 360 - 180
        if abs(tilt) < 30:
            angle += tilt / 2
    return Axes(float(between[0]), float(between[1]), unit, (angle + 180) % 360 - 180)


@dataclass(frozen=True)
class _Side:
    """The landmarks of one side of a face, u counted outwards from the middle line (it may be negative)."""

    eye: np.ndarray  # [3, 2]: inner, middle, outer
    brow: np.ndarray  # [3, 2]: inner, middle, outer
    wing: float  # of the nose, u
    mouth: float  # corner of the mouth, u
    cheek: float  # edge of the face below the eyes, u
    jaw: float  # edge of the face beside the mouth, u


# Where they are if nothing of them is seen.
_EYE = np.array([(0.30, 0.0), (0.46, 0.0), (0.61, 0.0)])
_BROW = np.array([(0.21, _BROW_LEVEL + 0.03), (0.49, _BROW_LEVEL - 0.03), (0.77, _BROW_LEVEL + 0.02)])


def _side(seen: _Seen, side: int) -> _Side:
    eye, brow = (
        next((curve for one in (side, -side) if (curve := _curve(seen, ids, one)) is not None), usual)
        for ids, usual in ((_EYES, _EYE), (_BROWS, _BROW))
    )
    u, v = seen.part(_NOSE)
    wing = _extreme(side * u[v > 0.3], 0.97, 0.25)
    mouth = _extreme(side * seen.part(*_MOUTH)[0], 0.98, 0.34)
    u, v = seen.part(_SKIN)
    cheek = _extreme(side * u[np.abs(v - 0.4) < 0.1], 0.99, 0.94)
    jaw = _extreme(side * u[np.abs(v - 1.0) < 0.1], 0.99, 0.83)
    # Hair may cover the edge of the face: it is no nearer than this.
    cheek, jaw = max(cheek, eye[2, 0] + 0.15), max(jaw, mouth + 0.15)
    return _Side(eye, brow, wing, mouth, min(cheek, 1.25), min(jaw, 1.15))


def _curve(seen: _Seen, ids: tuple[int, ...], side: int) -> np.ndarray | None:
    """An eye or a brow of a side as three points (u, v), from the middle of the face outwards; None if unseen."""
    u, v = seen.part(*ids)
    there = (side * u > 0) & (np.abs(v) < 0.8) & (np.abs(u) < 1.2)
    u, v = side * u[there], v[there]
    if len(u) < max(2, seen.fewest / 2):
        return None
    inner, outer = (_extreme(u, share, u.mean()) for share in (0.02, 0.98))
    thirds = np.clip(((u - inner) / max(outer - inner, 1e-6) * 3).astype(int), 0, 2)
    count = np.bincount(thirds, minlength=3)
    height = np.bincount(thirds, v, 3) / count.clip(1)
    height = np.where(count > 0, height, v.mean())
    return np.stack([np.array([inner, (inner + outer) / 2, outer]), height], 1)


def _extreme(values: np.ndarray, share: float, usual: float) -> float:
    """The value below which this share of them lies, an edge that single cells do not move; ``usual`` for too few."""
    if len(values) < 4:
        return float(usual)
    place = round(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


@dataclass(frozen=True)
class _Middle:
    """The landmarks of the middle line of a face, as it shows: (u, v)."""

    nose: tuple[float, float]  # its base
    lips: tuple[float, float]  # the lower edge of the lower lip
    chin: tuple[float, float]
    hairline: float  # v, or where the skin ends for another reason


def _middle(seen: _Seen) -> _Middle:
    u, v = seen.part(_NOSE)
    nose = _extreme(u, 0.5, 0.0), _extreme(v, 0.98, 0.67)
    u, v = seen.part(*_MOUTH)
    lips = _extreme(u, 0.5, 0.0), _extreme(v, 0.98, 1.15)
    u, v = seen.part(_SKIN)
    below = np.abs(u - lips[0]) < 0.3
    chin = float(np.clip(_extreme(v[below], 0.995, 1.64), lips[1] + 0.3, lips[1] + 0.75))
    tip = _extreme(u[below & (np.abs(v - chin + 0.15) < 0.1)], 0.5, lips[0])
    return _Middle(nose, lips, (tip, chin), _extreme(v[np.abs(u) < 0.3], 0.01, -1.05))


# ---------------------------------------------------------------------------------------------- outlines


def _outlines(seen: _Seen, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """The closed outlines, points [n, 2] in (u, v), of drawn regions."""
    right, left, middle = _side(seen, -1), _side(seen, 1), _middle(seen)
    outlines = {
        "forehead": lambda: [_forehead(left, right)],
        "left cheek": lambda: [_cheek(left, middle)],
        "right cheek": lambda: [_mirrored(_cheek(right, middle))],
        "chin": lambda: [_chin(middle, (left.jaw + right.jaw) / 2)],
        "under eyes": lambda: [_under_eye(left), _mirrored(_under_eye(right))],
        "t-zone": lambda: _t_zone(left, right, middle),
    }
    return {name: outlines[name]() for name in names}


def _mirrored(outline: np.ndarray) -> np.ndarray:
    return outline * (-1, 1)


def _forehead(left: _Side, right: _Side) -> np.ndarray:
    """From the brows up to the hair, or to a dome above. The line below runs through the brows, which are no skin."""
    halves = []
    for side in (left, right):
        (_, a), (_, b), (tail, c) = side.brow
        halves.append(
            [
                (side.brow[0, 0], a),
                (side.brow[1, 0], b),
                (tail, c),
                (tail + 0.16, c - 0.06),
                (tail + 0.32, c - 0.25),
                (tail + 0.30, c - 0.70),
                (tail + 0.05, c - 1.08),
                (tail * 0.5, c - 1.26),
            ]
        )
    return _spline(_joined(*halves))


def _joined(left: list, right: list) -> np.ndarray:
    """A closed outline of two half ones, each from the lower middle outwards and up."""
    return np.array(left + [(-u, v) for u, v in right[::-1]])


def _cheek(side: _Side, middle: _Middle) -> np.ndarray:
    """From below the lower lid to the jaw, from the fold beside nose and mouth to near the ear."""
    (inner, high), (_, _), (outer, low) = side.eye
    lid, base = max(high, low), middle.nose[1]
    return _spline(
        np.array(
            [
                (max(side.wing + 0.05, inner + 0.02), lid + 0.36),
                (outer - 0.08, lid + 0.29),
                (outer + 0.12, lid + 0.18),
                (outer + 0.6 * (side.cheek - outer), lid + 0.12),
                (side.cheek - 0.03, lid + 0.22),
                (0.5 * (side.cheek + side.jaw), base),
                (side.jaw - 0.06, 1.0),
                (0.5 * (side.mouth + side.jaw), 1.16),
                (side.mouth + 0.12, 1.08),
                (side.mouth + 0.07, 0.9),
                (side.wing + 0.10, base + 0.03),
                (side.wing + 0.06, base - 0.13),
            ]
        )
    )


def _under_eye(side: _Side) -> np.ndarray:
    """The crescent below the lower lid; its upper line runs through the eye, which is no skin."""
    (inner, a), (middle, b), (outer, c) = side.eye
    width = outer - inner
    return _spline(
        np.array(
            [
                (inner - 0.04, a + 0.03),
                (middle, b),
                (outer + 0.05, c + 0.01),
                (outer + 0.03, c + 0.12),
                (outer - 0.25 * width, b + 0.23),
                (middle - 0.10 * width, b + 0.27),
                (inner, a + 0.22),
                (inner - 0.06, a + 0.11),
            ]
        )
    )


def _chin(middle: _Middle, jaw: float) -> np.ndarray:
    """Below the fold under the lower lip, down to the edge of the face."""
    (_, lips), (tip, chin) = middle.lips, middle.chin
    wide, fold = 0.42 * jaw, lips + 0.36 * (chin - lips)
    half = [(0.0, fold), (0.6 * wide, fold + 0.04), (wide, fold + 0.16), (wide, chin - 0.05), (0.7 * wide, chin + 0.12)]
    return _spline(np.array([(tip + u, v) for u, v in half] + [(tip - u, v) for u, v in half[:0:-1]]))


def _t_zone(left: _Side, right: _Side, middle: _Middle) -> list[np.ndarray]:
    """A bar over the forehead and a stem from there over nose and upper lip to the chin."""
    brows = (left.brow[0, 1] + right.brow[0, 1]) / 2
    hairline = min(max(middle.hairline, -1.35), brows - 0.35)
    bar = []
    for side in (left, right):
        (inner, a), (arch, b), (tail, _) = side.brow
        top, wide = min(a, b) + 0.82 * (hairline - min(a, b)), 0.85 * tail
        bar.append(
            [
                (0.5 * inner, a),
                (arch, b),
                (wide, b - 0.10),
                (wide + 0.05, 0.5 * (top + b)),
                (0.8 * wide, top + 0.04),
                (0.3 * wide, top),
            ]
        )
    (nose, base), (mouth, _), (tip, chin) = middle.nose, middle.lips, middle.chin
    stem = [  # from the bar down: v, u of its middle, half its width
        (brows - 0.25, 0.0, 0.20),
        (brows, 0.0, 0.17),
        (0.12, 0.35 * nose, 0.15),
        (0.6 * base, nose, 0.23),
        (base - 0.04, nose, 0.26),
        (base + 0.04, nose, 0.17),
        (base + 0.12, mouth, 0.13),
        (1.0, mouth, 0.14),
        (1.20, 0.5 * (mouth + tip), 0.16),
        (0.5 * (1.20 + chin), tip, 0.22),
        (chin - 0.12, tip, 0.18),
        (chin - 0.06, tip, 0.08),
    ]
    outline = [(u + half, v) for v, u, half in stem] + [(u - half, v) for v, u, half in stem[::-1]]
    return [_spline(_joined(*bar)), _spline(np.array(outline))]


def _spline(points: np.ndarray, pieces: int = 6) -> np.ndarray:
    """A smooth closed line through the points (Catmull-Rom), as a polygon."""
    before, after, then = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = np.arange(pieces)[:, None, None] / pieces
    line = 0.5 * (
        2 * points
        + t * (after - before)
        + t**2 * (2 * before - 5 * points + 4 * after - then)
        + t**3 * (3 * points - before - 3 * after + then)
    )
    return line.transpose(1, 0, 2).reshape(-1, 2)


# ---------------------------------------------------------------------------------------------- drawing


def _filled(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inside of a polygon on a grid, float32 [height, width]; cells that an edge cuts have their share of it."""
    height, width = size
    middles = np.arange(height) + 0.5
    x0, y0, x1, y1 = x, y, np.roll(x, -1), np.roll(y, -1)
    # An edge that crosses a row changes what is to the right of it, by +1 going down and -1 going up.
    down = (y0 <= middles[:, None]) & (middles[:, None] < y1)
    up = (y1 <= middles[:, None]) & (middles[:, None] < y0)
    row, edge = (down | up).nonzero()
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    crossing = np.clip(x0[edge] + (middles[row] - y0[edge]) * slope, 0, width)
    cell = crossing.astype(int)
    sign, share = np.where(down[row, edge], 1.0, -1.0), crossing - cell
    change = np.zeros((height, width + 2))
    np.add.at(change, (row, cell), sign * (1 - share))
    np.add.at(change, (row, cell + 1), sign * share)
    return np.abs(change.cumsum(1)[:, :width]).clip(0, 1).astype(np.float32)


def _blurred(shapes: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of [N, h, w]; beyond the border the shapes go on."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum()
    padded = torch.nn.functional.pad(shapes[:, None], (reach, reach, reach, reach), mode="replicate")
    wide = torch.nn.functional.conv2d(padded, kernel[None, None, :, None])
    return torch.nn.functional.conv2d(wide, kernel[None, None, None, :])[:, 0].clamp_(0, 1)
