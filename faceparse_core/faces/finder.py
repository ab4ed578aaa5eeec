"""The finder: pictures in, faces out.

This one knows the labels of a small parsing network, which is itself the detector: where it sees eyes, a nose and a
mouth within skin, there may be a face. Pictures are looked at from coarse to fine. Each such place gets a second look,
framed by what the first one saw; what still has all its parts, in the right order, is a face.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from faceparse_core.faces.face import Face, arranged, fills
from faceparse_core.faces.frames import layout
from faceparse_core.faces.spots import Spot, distinct, is_framed, shared, shares_of, spots_in
from faceparse_core.faces.tiles import FINE_PIXELS, PIXELS_AT_ONCE, See, fine_look, fine_scale
from faceparse_core.faces.windows import Look, cut
from faceparse_core.rendering import Window

# The side of the square as which a picture is first looked at: faces of 64 pixels and more are seen in it.
_SIDE = 512
# The size of the window of a second look.
_GLANCE = 256
_MOST_PLACES = 48
# The least probability of a person's parts that is a trace of one.
_TRACE = 0.06


class Finder(Protocol):
    """Whatever finds faces in images, uint8 (0..255) or float (0..1) [H, W, 3] each."""

    def find(self, images: Sequence[Tensor]) -> list[list[Face]]:
        """The faces of each image, the largest first, numbered so."""

    def find_near(self, image: Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """Each of these faces, whose places are known from elsewhere, as it is seen in an image, there or nearby, with
        its index; None for what is not there."""


class Pyramid:
    """The finder that looks with a small parsing network, ``see``, from coarse to fine. ``colour``: what it is to see
    around a picture, three in 0..1."""

    def __init__(self, see: See, colour: Sequence[float]):
        self._see, self._colour = see, colour

    def find(self, images: Sequence[Tensor]) -> list[list[Face]]:
        """The faces of each image, the largest first. A picture that one face fills costs one look. In all others
        smaller faces are searched, and each place where one may be is looked at once more."""
        found: list[list[Spot]] = []
        places: list[tuple[int, Spot]] = []
        for number, (image, look) in enumerate(zip(images, self._first_looks(images), strict=True)):
            spots = spots_in(shares_of(look.logits), look.window)
            close = [spot for spot in spots if spot.certain]
            others = len(distinct(spots)) > 1
            alone = len(close) == 1 and fills(close[0].face(0, image.shape), image.shape, others)
            found.append(close if alone else [])
            if alone or not _is_sure(look):
                continue
            scale = fine_scale(image.shape)
            if scale and _hints(look, image.shape):
                finer = fine_look(image, scale, self._see, self._colour)
                spots += spots_in(shares_of(finer.logits), finer.window)
            places += [(number, spot) for spot in distinct(spots)[:_MOST_PLACES]]

        for last in (False, True):
            again = []
            for number, window, spots in self._glances(images, places):
                for spot in spots:
                    # A face that the window does not frame well is judged in one that does.
                    if spot.certain and (last or is_framed(spot, window)):
                        found[number].append(spot)
                    elif spot.likely and not last:
                        again.append((number, spot))
            places = [
                (number, spot)
                for number, others in enumerate(found)
                for spot in distinct([spot for where, spot in again if where == number], others)
            ]
        return [
            arranged([spot.face(0, image.shape) for spot in distinct(spots)], "size", 0)
            for image, spots in zip(images, found, strict=True)
        ]

    def find_near(self, image: Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """Each of these faces as it is seen in an image where it was, or nearby; None for what is not recognised."""
        places = [Spot.of(face) for face in faces]
        glances = self._glances([image], [(0, place) for place in places])
        return [_recognised(place, spots, image) for place, (_, _, spots) in zip(places, glances, strict=True)]

    def _first_looks(self, images: Sequence[Tensor]) -> list[Look]:
        """What the network makes of the whole of each image; those that are laid out alike together."""
        layouts = [layout(image.shape[0], image.shape[1], _SIDE) for image in images]
        groups: dict[tuple, list[int]] = {}
        for number, (image, place) in enumerate(zip(images, layouts, strict=True)):
            groups.setdefault((place.size, image.dtype), []).append(number)
        looks: dict[int, Look] = {}
        for (size, _), group in groups.items():
            at_once = max(1, PIXELS_AT_ONCE // math.prod(size))
            for start in range(0, len(group), at_once):
                some = group[start : start + at_once]
                pixels = torch.stack([layouts[n].fill(images[n], self._colour) for n in some])
                for n, logits in zip(some, self._see(pixels), strict=True):
                    looks[n] = Look(logits, layouts[n].window(*images[n].shape[:2]))
        return [looks[number] for number in range(len(images))]

    def _glances(
        self, images: Sequence[Tensor], places: list[tuple[int, Spot]]
    ) -> Iterator[tuple[int, Window, list[Spot]]]:
        """Of each place (the image's number, a spot) the window in which it was looked at, and what was there."""
        at_once = PIXELS_AT_ONCE // _GLANCE**2
        for start in range(0, len(places), at_once):
            batch = [(number, spot.window) for number, spot in places[start : start + at_once]]
            pieces = [cut(images[number], window, _GLANCE, self._colour) for number, window in batch]
            if len({piece.dtype for piece in pieces}) > 1:
                pieces = [piece / 255 if piece.dtype == torch.uint8 else piece for piece in pieces]
            for (number, window), logits in zip(batch, self._see(torch.stack(pieces)), strict=True):
                yield number, window, spots_in(shares_of(logits), window)


def _recognised(place: Spot, spots: Sequence[Spot], image: Tensor) -> Face | None:
    """The face of a place, whose index it keeps, among what was seen there."""
    near = [spot for spot in spots if spot.certain and shared(spot.box, place.box) > 0.5]
    if not near:
        return None
    best = min(near, key=lambda spot: math.dist(spot.window.centre, place.window.centre))
    return best.face(place.index, image.shape)


def _is_sure(look: Look) -> bool:
    """Whether the network tells labels apart at all. One that was never trained does not, and finds no faces."""
    return look.logits.softmax(0).amax(0).mean().item() > 0.5


def _hints(look: Look, size: Sequence[int]) -> bool:
    """Whether smaller faces may be in a picture (height, width): where the look is about half as fine as the next one
    would be, there is a trace of a person in it. In noise or on a plain wall there is none."""
    scale = 4 * look.logits.shape[1] / look.window.height
    if 64 * scale < 28 or size[0] * size[1] > FINE_PIXELS:
        return True
    return look.logits.softmax(0)[0].min().item() < 1 - _TRACE
