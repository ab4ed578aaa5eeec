"""Frames: how an image is looked at, as a whole and, unless it is a portrait, through a window for each face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.face import Face, fills, framing
from faceparse_core.faces.windows import padded
from faceparse_core.rendering import Window

_STRIDE = 32  # input sizes are multiples of it
# Up to this ratio of the sides a picture is stretched to the square. Beyond it, keeping the proportions parses better:
# see benchmarks/fit.py.
_STRETCH_UP_TO = 1.1


@dataclass(frozen=True)
class Found:
    """The ``faces`` of an image, and what is settled already before they are framed: their ``windows``, which hold
    still over the frames of a video; whether the image is the ``portrait`` of one of them; ``cut``: it begins a scene;
    ``others``: whether people who show no face belong to the picture.
    """

    faces: list[Face]
    windows: list[Window] | None = None
    portrait: bool | None = None
    cut: bool = False
    others: bool = True


@dataclass(frozen=True)
class Framed:
    """How an image is looked at: ``windows``, one for each of the ``faces``, beside the whole of it; of a ``portrait``
    the whole is all that there is to see."""

    faces: list[Face]
    windows: list[Window]
    portrait: bool
    cut: bool
    others: bool = True


def framed(found: Found, size: Sequence[int]) -> Framed:
    """What was found in an image (height, width), framed. An image is a portrait if its only face fills it."""
    faces = found.faces
    portrait = len(faces) == 1 and fills(faces[0], size) if found.portrait is None else found.portrait
    if portrait:
        return Framed(faces, [], True, found.cut, found.others)
    windows = [framing(face) for face in faces] if found.windows is None else found.windows
    return Framed(faces, windows, False, found.cut, found.others)


# ---------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True)
class Layout:
    """The network's input of ``size`` (height, width), in whose middle the image lies, resized to ``inner``."""

    size: tuple[int, int]
    inner: tuple[int, int]

    @property
    def _corner(self) -> tuple[int, int]:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2

    def fill(self, image: Tensor, colour: Sequence[float]) -> Tensor:
        """The image, [H, W, 3], brought into the frame; what it does not cover has the ``colour``, three in 0..1."""
        top, left = self._corner
        return padded(pictures.resize(image, self.inner), left, top, self.size, colour)

    def window(self, height: int, width: int) -> Window:
        """The frame in the pixels of the image, whose size this is."""
        down, across = height / self.inner[0], width / self.inner[1]
        top, left = self._corner
        return Window(-left * across, -top * down, self.size[1] * across, self.size[0] * down)


def layout(height: int, width: int, side: int, fit: str = "auto") -> Layout:
    """How an image of this size is laid out for a network that was trained on squares of this ``side``.

    ``fit``: "stretch", "pad" (its proportions are kept), or "auto": what is nearly square is stretched.
    """
    nearly_square = max(height, width) <= _STRETCH_UP_TO * min(height, width)
    if fit == "stretch" or (fit == "auto" and nearly_square):
        return Layout((side, side), (side, side))
    # As many pixels as the square has, but nothing longer than twice its side.
    scale = min(side / math.sqrt(height * width), 2 * side / max(height, width))
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    return Layout((_STRIDE * math.ceil(inner[0] / _STRIDE), _STRIDE * math.ceil(inner[1] / _STRIDE)), inner)
