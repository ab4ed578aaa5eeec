"""Trying on: glasses, a hat, earrings, a beard, a mask, laid on a face by its anchors.

A piece is an RGBA picture with the places of anchors in it. Each of its columns has a place along the line through the
eyes and each of its rows one across it: straight lines from anchor to anchor, so that on a head that turns away the far
half of a frame is as short as the face there. What lies in front of it, such as a fringe, stays in front.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.edits.anchors import Anchors, find_anchors
from faceparse_core.edits.recolour import as_float
from faceparse_core.errors import enough_memory, explained, number
from faceparse_core.faces import Axes, Face
from faceparse_core.images import Images
from faceparse_core.labels import region_ids
from faceparse_core.masks.reduced import pairs

_FOLDER = Path(__file__).parent / "pieces"
# Where rows have one anchor alone, they are as high as columns are wide on a head that looks ahead, within so much of
# what is natural.
_NATURAL = 0.12
# The shadow, in units: how far below the piece it falls and how soft it is. It falls on the person alone.
_BELOW, _SOFTNESS = 0.045, 0.05
_SHADED = region_ids("face + ears + neck")
# Neighbouring anchors lie at least so far apart, in units: on a far side they would change places.
_APART = 0.015


@dataclass(frozen=True)
class Piece:
    """Something to try on: ``picture``, float32 [h, w, 4] in 0..1 (RGBA), and where anchors (see ``anchors.POINTS``)
    lie in it, in its pixels: ``across`` by column, ``down`` by row.

    ``at``: it is laid on each of these anchors, at its natural size, where they are seen, mirrored on the left one;
    ``across`` and ``down`` hold the anchor "" alone then, and it ``hangs`` straight down. ``unit``: how many of its
    pixels are as long as the way from between the eyes to the mouth. ``behind``: the region that lies in front of it;
    ``shadow``: how dark its shadow is, 0..1.
    """

    picture: Tensor
    across: Mapping[str, float]
    down: Mapping[str, float]
    unit: float
    at: tuple[str, ...] = ()
    hangs: bool = False
    behind: str = "hair"
    shadow: float = 0.3
    extent: tuple[float, float, float, float] = field(default=(0, 0, 0, 0))  # left, top, right, bottom of what shows


@cache
def _shipped() -> dict[str, dict]:
    return json.loads((_FOLDER / "pieces.json").read_text(encoding="utf-8"))


def piece_names() -> tuple[str, ...]:
    """The names of the pieces that come with the package.

    >>> "round glasses" in piece_names()
    True
    """
    return tuple(_shipped())


def piece(what: str | Path | Image.Image | Tensor, *, like: str = "round glasses") -> Piece:
    """A piece to try on, for :func:`try_on`.

    ``what``: the name of one that comes with the package (see :func:`piece_names`), or a picture of your own with
    transparency: a file, a PIL image or a float tensor [h, w, 4] in 0..1. Your own is laid on as the shipped piece
    ``like`` is, its visible part where that one's is; crop it as that one is cropped. Raises ValueError for a name that
    is none and a picture without transparency, FileNotFoundError for a missing file.

    >>> piece("hat").behind
    ''
    """
    for name in (like,) if not isinstance(what, str) or what not in _shipped() else (what,):
        if name not in _shipped():
            raise ValueError(f"there is no piece {name!r}: choose one of {', '.join(_shipped())}")
    if isinstance(what, str) and what in _shipped():
        return _loaded(what)
    if isinstance(what, str) and not Path(what).suffix:
        raise ValueError(f"there is no piece {what!r}: choose one of {', '.join(_shipped())}, or give a picture's file")
    return _fitted(_rgba(what), _loaded(like))


@cache
def _loaded(name: str) -> Piece:
    known = dict(_shipped()[name])
    picture = _rgba(_FOLDER / known.pop("file"))
    known["at"] = tuple(known.get("at", ()))
    return Piece(picture, extent=_visible(picture), **known)


def _rgba(what: str | Path | Image.Image | Tensor) -> Tensor:
    """float32 [h, w, 4] in 0..1, some of it transparent and some not."""
    if isinstance(what, Tensor):
        if what.ndim != 3 or what.shape[2] != 4 or not what.is_floating_point() or 0 in what.shape:
            raise ValueError(f"a piece is a float tensor [h, w, 4] in 0..1 (RGBA), not {what.dtype} {list(what.shape)}")
        picture = what.detach().cpu().float().nan_to_num(0).clamp(0, 1)
    else:
        if not isinstance(what, Image.Image):
            pictures.load(what)  # says what is wrong with it
        with explained(f"{what} cannot be decoded"):
            opened = what if isinstance(what, Image.Image) else Image.open(what)
            picture = torch.from_numpy(np.array(opened.convert("RGBA"), dtype=np.float32) / 255)
    alpha = picture[..., 3]
    if not alpha.any() or alpha.min() > 0.99:
        raise ValueError("a piece to try on must be partly transparent: give a picture with an alpha channel, as a PNG")
    return picture


def _visible(picture: Tensor) -> tuple[float, float, float, float]:
    rows, columns = ((picture[..., 3] > 0.02).any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return 0, 0, picture.shape[1], picture.shape[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _fitted(picture: Tensor, like: Piece) -> Piece:
    """Somebody's own picture in place of that of a piece."""
    ours, theirs = like.extent, _visible(picture)
    scale = (theirs[2] - theirs[0]) / (ours[2] - ours[0]), (theirs[3] - theirs[1]) / (ours[3] - ours[1])
    across = {name: theirs[0] + (x - ours[0]) * scale[0] for name, x in like.across.items()}
    # Seen from above a pair of glasses may be higher or lower than ours: its middle is where ours has it.
    tall = scale[0] if len(like.down) == 1 else scale[1]
    middle = (ours[1] + ours[3]) / 2, (theirs[1] + theirs[3]) / 2
    down = {name: middle[1] + (y - middle[0]) * tall for name, y in like.down.items()}
    return replace(like, picture=picture, across=across, down=down, unit=like.unit * scale[0], extent=theirs)


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
) -> Tensor:
    """The images with something tried on, float32 [B, H, W, 3] in 0..1 on the CPU.

    ``images``: in any form that ``parse`` takes, ``labels``: their label map, uint8 [B, H, W], and ``faces``: of each
    its faces, as a ``Parsing`` has them. ``what``: see :func:`piece`. ``front``: what lies in front of it, [B, H, W] in
    0..1, best the soft mask of ``what.behind``; without it that is told from the labels. ``face``: whose: "all",
    "largest" or an index. ``size``: larger or smaller than it fits; ``up``: higher, in parts of the way from between
    the eyes to the mouth. ``shadow`` 0..1: how much of its shadow is seen.

    A face of which too little is seen wears nothing, and an ear that is not seen no earring. Where neither the piece
    nor its shadow is, the images stay as they are, to the bit. Raises ValueError for images, labels and faces that do
    not go together, and values out of range.

    >>> from faceparse_core.faces import Face
    >>> nobody = torch.zeros(1, 8, 8, dtype=torch.uint8)
    >>> try_on(torch.ones(8, 8, 3), piece("hat"), nobody, [[Face(0, 1, 1, 6, 6)]]).min()
    tensor(1.)
    """
    number("size", size, 0.2, 5)
    number("up", up, -3, 3)
    number("shadow", shadow, 0, 1)
    if not (face in ("all", "largest") or (isinstance(face, int) and face >= 0)):
        raise ValueError(f"face must be 'all', 'largest' or an index from 0 on, not {face!r}")
    label_maps = labels[None] if labels.ndim == 2 else labels
    frames, maps = pairs(images, torch.zeros(label_maps.shape) if front is None else front)
    if len(faces) != len(frames) or label_maps.shape[0] not in (1, len(frames)):
        raise ValueError(f"there are {len(frames)} images, but faces of {len(faces)} and labels of {len(label_maps)}")
    if label_maps.shape[1:] != maps[0].shape:
        raise ValueError(f"the labels are of {label_maps.shape[2]}x{label_maps.shape[1]}, the images of another size")
    result = pictures.empty(len(frames), *maps[0].shape, 3)
    for i, (image, found) in enumerate(zip(frames, faces, strict=True)):
        result[i] = as_float(image)
        known = label_maps[i % len(label_maps)]
        before = None if front is None else maps[i]
        # The farthest first: who is larger stands in front.
        for one in sorted(found, key=lambda each: each.width * each.height):
            if face == "all" or face == one.index or (face == "largest" and one is _largest(found)):
                others = [other for other in found if other is not one]
                anchors = find_anchors(known, one, others)
                for placed in _placed(what, anchors, size, up) if anchors else ():
                    placed.lay(result[i], known, before, what, shadow)
        if progress:
            progress(i + 1, len(frames))
    return result


def _largest(faces: Sequence[Face]) -> Face:
    return max(faces, key=lambda face: face.width * face.height)


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
        return float(self._through(np.array([pixel]), self.pixels, self.places, self.scale)[0])

    def to_pixel(self, place: np.ndarray) -> np.ndarray:
        return self._through(place, self.places, self.pixels, 1 / self.scale)

    @staticmethod
    def _through(values: np.ndarray, knots: np.ndarray, results: np.ndarray, slope: float) -> np.ndarray:
        beyond = np.minimum(values - knots[0], 0) + np.maximum(values - knots[-1], 0)
        return np.interp(values, knots, results) + beyond * slope


@dataclass(frozen=True)
class _Placed:
    """A piece in its place: the frame of the face, and where in it its columns and rows lie."""

    frame: Axes
    across: _Line
    down: _Line
    flipped: bool

    def lay(self, image: Tensor, labels: Tensor, front: Tensor | None, what: Piece, shadow: float) -> None:
        """Lays it on an image [H, W, 3], in place."""
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
        part = self._sampled(what.picture, rows, columns)
        colour, alpha = part[..., :3], part[..., 3]
        known = labels[rows, columns]
        visible = 1 - (_of_labels(known, what.behind) if front is None else front[rows, columns])
        pixels = image[rows, columns]
        after = pixels
        if shade:
            fallen = _shadow(alpha, self.frame) * torch.isin(known, torch.tensor(_SHADED, dtype=torch.uint8)) * visible
            after = after * (1 - shade * fallen[..., None])
        # The colours are multiplied by their alpha already.
        after = after * (1 - (alpha * visible)[..., None]) + colour * visible[..., None]
        image[rows, columns] = after.clamp(0, 1)

    def _sampled(self, picture: Tensor, rows: slice, columns: slice) -> Tensor:
        """The piece in rows and columns of the image, [h, w, 4], its colours multiplied by its alpha."""
        height, width = picture.shape[:2]
        # First about as small as it is seen, so that thin lines are not lost between the pixels.
        scale = min(1.0, 1.25 * self.frame.unit * max(self.across.scale, self.down.scale))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = pictures.resize(torch.cat([picture[..., :3] * picture[..., 3:], picture[..., 3:]], 2), size)
        small = F.pad(small.permute(2, 0, 1)[None], (1, 1, 1, 1))
        x, y = np.meshgrid(np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop) + 0.5)
        u, v = self.frame.to_face(x, y)
        x, y = self.across.to_pixel(-u if self.flipped else u), self.down.to_pixel(v)
        # The rim of one pixel is transparent, and what lies beyond it, too.
        x = (x / width * size[1] + 1) / (size[1] + 2) * 2 - 1
        y = (y / height * size[0] + 1) / (size[0] + 2) * 2 - 1
        grid = torch.from_numpy(np.stack([x, y], -1).astype(np.float32))[None]
        return F.grid_sample(small, grid, align_corners=False)[0].permute(1, 2, 0).clamp_(0, 1)


def _inside(places: np.ndarray, spare: float, length: int) -> slice:
    return slice(max(0, math.floor(places.min() - spare)), min(length, math.ceil(places.max() + spare)))


def _of_labels(labels: Tensor, region: str) -> Tensor:
    """The mask of a region in a label map [h, w], its edge a pixel or two soft."""
    if not region:
        return torch.zeros(labels.shape)
    mask = torch.isin(labels, torch.tensor(region_ids(region), dtype=torch.uint8)).float()
    return F.avg_pool2d(mask[None], 3, 1, 1, count_include_pad=False)[0]


def _shadow(alpha: Tensor, frame: Axes) -> Tensor:
    """The shadow that a piece throws, [h, w]: it, moved down along the face and blurred."""
    angle = math.radians(frame.angle)
    down, across = _BELOW * frame.unit * math.cos(angle), -_BELOW * frame.unit * math.sin(angle)
    moved = torch.roll(alpha, (round(down), round(across)), (0, 1))
    reach = max(1, round(_SOFTNESS * frame.unit * 0.9))
    blurred = moved[None, None]
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 2 * reach + 1, 1, reach)
    return blurred[0, 0]
