"""Faces in whole pictures, over which a network that knows the labels looks from coarse to fine.

The network itself is the detector: where it sees eyes, a nose and a mouth within skin, there may be a face. Each such
place gets a second look, framed by what the first one saw; what still has all its parts, in the right order, is a face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.face import Face, arranged, fills
from faceparse_core.faces.spots import Spot, distinct, is_framed, shared, shares_of, spots_in
from faceparse_core.faces.windows import Look, cut, padded
from faceparse_core.rendering import Window

# The first look is the whole picture at about this many pixels: it sees faces of 64 pixels and more in it. The second
# has at most so many, and none more than the picture: down to a quarter of the first look's faces.
_FIRST_PIXELS, _SECOND_PIXELS = 512 * 512, 2048 * 1536
_PIXELS_AT_ONCE = 640 * 1024  # what goes through the network at a time
_WIDEST_TILE, _OVERLAP = 1088, 64  # of the second look

# The size of the window of a second look.
_GLANCE = 256
_MOST_PLACES = 48
# The least probability of a person's parts that is a trace of one.
_TRACE = 0.06

See = Callable[[Tensor], Tensor]
"""The network: pixels, uint8 (0..255) or float (0..1) [B, H, W, 3] of sides that are multiples of 32, to logits,
float32 [B, 19, H/4, W/4]."""


@dataclass(frozen=True)
class Found:
    """The ``faces`` of an image and the ``look`` that shows the whole of it best. ``portrait``: one face fills it, and
    this look is all that there is to see."""

    faces: list[Face]
    look: Look
    portrait: bool = False


def search(images: Sequence[Tensor], see: See, looks: Sequence[Look], colour: Sequence[float]) -> list[Found]:
    """The faces of pictures, of each from the largest to the smallest.

    ``images``: uint8 or float [H, W, 3], as ``images.load`` gives them. ``looks``: of each the first one, at the whole
    of it. ``colour``: what lies around a picture, three in 0..1.

    A picture that one face fills costs nothing more. In all others smaller faces are searched, and each place where
    one may be is looked at once more; these looks of all pictures go through the network together.
    """
    found: list[list[Spot]] = []
    places: list[tuple[int, Spot]] = []
    finer: list[Look | None] = []
    portraits: set[int] = set()
    for number, (image, look) in enumerate(zip(images, looks, strict=True)):
        spots = spots_in(shares_of(look.logits), look.window)
        close = [spot for spot in spots if spot.certain]
        alone = len(close) == 1 and fills(close[0].face(0, image.shape), image.shape, others=len(distinct(spots)) > 1)
        found.append(close if alone else [])
        if alone or not _is_sure(look):
            portraits.add(number)
            finer.append(None)
            continue
        finer.append(_finer_look(image, see, colour) if _hints(look, image.shape) else None)
        if finer[-1]:
            spots += spots_in(shares_of(finer[-1].logits), finer[-1].window)
        places += [(number, spot) for spot in distinct(spots)[:_MOST_PLACES]]

    for last in (False, True):
        again = []
        for number, window, spots in _glances(images, places, see, colour):
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
    results = []
    for number, (image, spots, first, second) in enumerate(zip(images, found, looks, finer, strict=True)):
        faces = arranged([spot.face(0, image.shape) for spot in distinct(spots)], "size", 0)
        best = second if second and _fits(faces, second) else first
        results.append(Found(faces, best, number in portraits))
    return results


def settle(
    images: Sequence[Tensor], boxes: Sequence[Sequence[Face]], see: See, looks: Sequence[Look], colour: Sequence[float]
) -> list[Found]:
    """As ``search``, of faces whose boxes are known: each is looked at, for its tilt and its exact box. Those that are
    not recognised stay as they are given."""
    places = [(number, Spot.of(face)) for number, faces in enumerate(boxes) for face in faces]
    settled = [list(faces) for faces in boxes]
    for (number, place), (_, _, spots) in zip(places, _glances(images, places, see, colour), strict=True):
        seen = _recognised(place, spots, images[number])
        if seen:
            settled[number][seen.index] = replace(seen, score=place.score)
    results = []
    for image, faces, look in zip(images, settled, looks, strict=True):
        seen = 4 * look.logits.shape[1] / look.window.height
        small = bool(faces) and min(face.height for face in faces) * seen < 64
        finer = _finer_look(image, see, colour) if small else None
        results.append(Found(faces, finer if finer and _fits(faces, finer) else look))
    return results


def look_again(image: Tensor, face: Face, see: See, colour: Sequence[float]) -> Face | None:
    """A face where another image had it, or nearby; None if it is not there."""
    place = Spot.of(face)
    ((_, _, spots),) = _glances([image], [(0, place)], see, colour)
    return _recognised(place, spots, image)


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
    if 64 * scale < 28 or size[0] * size[1] > _SECOND_PIXELS:
        return True
    return look.logits.softmax(0)[0].min().item() < 1 - _TRACE


def _fits(faces: Sequence[Face], look: Look) -> bool:
    """Whether the largest face, too, is seen well in a finer look."""
    scale = 4 * look.logits.shape[1] / look.window.height
    return bool(faces) and max(face.height for face in faces) * scale < 480


def _finer_look(image: Tensor, see: See, colour: Sequence[float]) -> Look | None:
    """The picture at the scale where its smallest faces are seen; None if that is hardly more than the first look."""
    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(_SECOND_PIXELS / (height * width)))
    if scale < 1.3 * math.sqrt(_FIRST_PIXELS / (height * width)):
        return None
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    small = pictures.resize(image, (high, wide))
    # In tiles that overlap; each begins in the middle of the overlap.
    across, lefts = _tiles(wide, _WIDEST_TILE)
    down, tops = _tiles(high, _PIXELS_AT_ONCE // across)
    logits = None
    for top in tops:
        for left in lefts:
            tile = padded(small[top : top + down, left : left + across], 0, 0, (down, across), colour)
            seen = see(tile[None])[0]
            if logits is None:
                logits = seen.new_empty(len(seen), (tops[-1] + down) // 4, (lefts[-1] + across) // 4)
            y, x = ((_OVERLAP // 8 if start else 0) for start in (top, left))
            logits[:, top // 4 + y : (top + down) // 4, left // 4 + x : (left + across) // 4] = seen[:, y:, x:]
    window = Window(0, 0, (lefts[-1] + across) * width / wide, (tops[-1] + down) * height / high)
    return Look(logits, window)


def _tiles(length: int, most: int) -> tuple[int, list[int]]:
    """The length of tiles, a multiple of 32, that cover a ``length`` with overlaps, and where they start."""
    count = max(1, math.ceil((length - _OVERLAP) / (most - _OVERLAP)))
    each = 32 * math.ceil((length + _OVERLAP * (count - 1)) / count / 32)
    return each, [number * (each - _OVERLAP) for number in range(count)]


def _glances(
    images: Sequence[Tensor], places: list[tuple[int, Spot]], see: See, colour: Sequence[float]
) -> Iterator[tuple[int, Window, list[Spot]]]:
    """Of each place (the image's number, a spot) the window in which it was looked at, and what was there."""
    at_once = _PIXELS_AT_ONCE // _GLANCE**2
    for start in range(0, len(places), at_once):
        batch = [(number, spot.window) for number, spot in places[start : start + at_once]]
        pieces = [cut(images[number], window, _GLANCE, colour) for number, window in batch]
        if len({piece.dtype for piece in pieces}) > 1:
            pieces = [piece / 255 if piece.dtype == torch.uint8 else piece for piece in pieces]
        for (number, window), logits in zip(batch, see(torch.stack(pieces)), strict=True):
            yield number, window, spots_in(shares_of(logits), window)
