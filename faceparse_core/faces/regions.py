"""Regions that no label has: forehead, cheeks, chin, under the eyes, T-zone; drawn from the parts that labels show.

In the axes of a face (see ``landmarks``) the outlines are drawn through landmarks taken from the label map (corners of
eyes, brows and mouth, wings of the nose, edge of the skin, chin), so that they follow a face that turns away. What is
measured in units below was read off the portraits of CelebAMask-HQ.

An outline may run over brows, hair or background: a region is what of it lies on the labels it is drawn on, see
``labels.DRAWN``. Hence a fringe hides the forehead, and sunglasses hide what is under the eyes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceparse_core.faces.face import Face
from faceparse_core.faces.landmarks import CELLS, Middle, Seen, Side, middle_of, seen_of, side_of
from faceparse_core.labels import DRAWN, Region
from faceparse_core.rendering import samples

# The standard deviation of an outline's soft edge, in units; the whole edge is about a twentieth of the face.
_SOFTNESS = 0.035
# The corners (u, v) of the rectangle that holds all outlines with their soft edges.
_REACH = ((-1.45, -1.75), (1.45, -1.75), (1.45, 2.15), (-1.45, 2.15))


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


def draw(labels: Tensor, face: Face, names: Sequence[str] = tuple(DRAWN)) -> Drawing | None:
    """Drawn regions of a face in a label map, uint8 [H, W]; ``names``: those of ``labels.DRAWN`` that are needed.

    They are outlines with soft edges that do not know what they lie on: multiply by the labels of which they are a
    part. So a side that is turned away, where there is no skin, has no cheek. None where there are no axes (see
    ``face_axes``), or if all of them lie outside of the picture.
    """
    seen = seen_of(labels, face)
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
    step = max(1.0, max(right - left, bottom - top) / CELLS)
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


# ---------------------------------------------------------------------------------------------- outlines


def _outlines(seen: Seen, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """The closed outlines, points [n, 2] in (u, v), of drawn regions."""
    right, left, middle = side_of(seen, -1), side_of(seen, 1), middle_of(seen)
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


def _forehead(left: Side, right: Side) -> np.ndarray:
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


def _cheek(side: Side, middle: Middle) -> np.ndarray:
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


def _under_eye(side: Side) -> np.ndarray:
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


def _chin(middle: Middle, jaw: float) -> np.ndarray:
    """Below the fold under the lower lip, down to the edge of the face."""
    (_, lips), (tip, chin) = middle.lips, middle.chin
    wide, fold = 0.42 * jaw, lips + 0.36 * (chin - lips)
    half = [(0.0, fold), (0.6 * wide, fold + 0.04), (wide, fold + 0.16), (wide, chin - 0.05), (0.7 * wide, chin + 0.12)]
    return _spline(np.array([(tip + u, v) for u, v in half] + [(tip - u, v) for u, v in half[:0:-1]]))


def _t_zone(left: Side, right: Side, middle: Middle) -> list[np.ndarray]:
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
