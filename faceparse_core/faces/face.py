"""The faces of an image: where each is, how they are numbered, which window frames one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from faceparse_core.errors import said
from faceparse_core.rendering import Window

# The side of a face's window over the face's height, and the tilt up to which it is not turned with the face.
_FRAME, _UPRIGHT = 2.0, 5.0
# What is less sure than this is a face only if the parser is sure of its parts.
CONFIRMED = 0.38
# Boxes so many times as large as their image are none: they are counted in pixels of another one.
_LARGEST = 10

ORDERS = ("size", "left to right", "score")
"""How the faces of an image may be numbered: the largest first, as they stand, or the surest first."""


@dataclass(frozen=True)
class Face:
    """One face: its ``index`` in the image, its ``box`` (``x, y, width, height``) in pixels: forehead to chin, no hair.

    ``angle``: its tilt in the image in degrees, clockwise; the box is upright all the same and holds the tilted face.
    ``score``: how sure it is, 0..1. ``landmarks``: x and y, in pixels, of the eye at the left of the upright face, the
    other eye, the tip of the nose, the corners of the mouth, left and right; none where nothing has found them.
    """

    index: int
    x: int
    y: int
    width: int
    height: int
    angle: float = 0.0
    score: float = 1.0
    landmarks: tuple[tuple[float, float], ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x, y, width, height)`` in pixels, as ``parse`` takes boxes."""
        return self.x, self.y, self.width, self.height


def bounding_box(rows: Tensor, columns: Tensor) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of what is in these rows [H] and columns [W], bool; None if nothing is."""
    down, across = rows.nonzero().flatten(), columns.nonzero().flatten()
    if not len(down):
        return None
    x, y, right, bottom = (int(place.item()) for place in (across[0], down[0], across[-1], down[-1]))
    return x, y, right - x + 1, bottom - y + 1


def arranged(faces: Sequence[Face], order: str, smallest: float) -> list[Face]:
    """The faces that are at least ``smallest`` pixels high, in an ``order`` (see ``ORDERS``), numbered anew."""
    keys = {
        "size": lambda face: -face.width * face.height,
        "left to right": lambda face: face.x + face.width / 2,
        "score": lambda face: -face.score,
        "given": lambda face: face.index,
    }
    chosen = sorted((face for face in faces if face.height >= smallest), key=keys[order])
    return [replace(face, index=index) for index, face in enumerate(chosen)]


def from_boxes(boxes: object, sizes: Sequence[tuple[int, int]]) -> list[list[Face]]:
    """The faces that somebody gives as boxes, of each image of ``sizes`` (height, width) a list.

    A box is ``(x, y, width, height)`` in pixels, a ``Face``, or a mapping with ``x, y, width, height`` and perhaps
    ``score`` and ``angle``. For a single image a list of boxes will do. What lies beyond the image is cut off. Raises
    ``ValueError`` for anything else and for boxes that lie outside of their image or are far larger than it.
    """
    if not isinstance(boxes, (list, tuple)):
        raise ValueError(f"faces must be 'auto', 'image' or, of each image, a list of boxes, not {said(repr(boxes))}")
    if len(sizes) == 1 and not (len(boxes) == 1 and isinstance(boxes[0], list)):
        boxes = [boxes]
    if len(boxes) != len(sizes):
        raise ValueError(f"there are {len(sizes)} images, but lists of boxes for {len(boxes)}: give one for each")
    return [
        [_from_box(box, index, size) for index, box in enumerate(_boxes_of_one(of_image))]
        for of_image, size in zip(boxes, sizes, strict=True)
    ]


def _boxes_of_one(boxes: object) -> Sequence:
    if not isinstance(boxes, (list, tuple)):
        raise ValueError(f"the faces of an image are a list of boxes, not {said(repr(boxes))}")
    return boxes


def _from_box(box: Any, index: int, size: tuple[int, int]) -> Face:
    names = ("x", "y", "width", "height")
    wrong = f"a face's box is (x, y, width, height) in pixels or a mapping with these, not {said(repr(box))}"
    try:
        given = vars(box) if isinstance(box, Face) else dict(box) if isinstance(box, Mapping) else dict(
            zip(names, box, strict=True))  # fmt: skip
        x, y, width, height = (float(given[name]) for name in names)
        angle, score = float(given.get("angle", 0.0)), float(given.get("score", 1.0))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(wrong) from error
    if not all(map(math.isfinite, (x, y, width, height, angle, score))) or width < 1 or height < 1:
        raise ValueError(wrong)
    if max(width, height) > _LARGEST * max(size):
        raise ValueError(
            f"the face's box {said(repr(box))} is more than {_LARGEST} times as large as its image, which has "
            f"{size[1]}x{size[0]} pixels: give it in pixels of this image"
        )
    left, top, right, bottom = clipped((x, y, x + width, y + height), size)
    if left >= right or top >= bottom:
        raise ValueError(
            f"the face's box {said(repr(box))} lies outside of its image, which has {size[1]}x{size[0]} pixels"
        )
    return Face(index, left, top, right - left, bottom - top, angle, score)


def clipped(box: Sequence[float], size: Sequence[int]) -> tuple[int, int, int, int]:
    """What of a box (left, top, right, bottom) lies in an image of ``size`` (height, width), in whole pixels; nothing
    of it does where right is not more than left, or bottom not more than top."""
    left, top, right, bottom = map(round, box)
    return max(0, left), max(0, top), min(size[1], right), min(size[0], bottom)


def fills(face: Face, size: Sequence[int]) -> bool:
    """Whether a picture (height, width) is the portrait of its only face: its window would be most of the picture, or
    most of its shorter side, as in a video of somebody who speaks."""
    window = framing(face)
    if window.width >= 0.7 * min(size[:2]):
        return True
    width = min(window.x + window.width, size[1]) - max(window.x, 0)
    height = min(window.y + window.height, size[0]) - max(window.y, 0)
    return width * height >= 0.7 * size[0] * size[1]


def wrapped(angle: float) -> float:
    """An angle in degrees, or the difference of two, as one of -180 to 180."""
    return (angle + 180) % 360 - 180


def framing(face: Face) -> Window:
    """The window of a face: square, the face about half of it, as in the portraits of the training; turned with the
    face if that is strongly tilted."""
    # A face is an ellipse of about 3:4: the sides of a box around it have nearly the same sum, however it is turned.
    side = _FRAME * (face.width + face.height) / 1.75
    x, y = face.x + face.width / 2, face.y + face.height / 2
    return Window(x - side / 2, y - side / 2, side, side, face.angle if abs(face.angle) > _UPRIGHT else 0.0)
