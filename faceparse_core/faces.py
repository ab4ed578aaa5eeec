"""Faces: in a label map, and in whole pictures over which the network looks from coarse to fine.

The network itself is the detector: where it sees eyes, a nose and a mouth within skin, there may be a face. Each such
place gets a second look, framed by what the first one saw; what still has all its parts, in the right order, is a face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.labels import GROUPS, NUM_LABELS, region_ids
from faceparse_core.windows import Look, Window, connected, cut, padded

# Skin alone is no face: a cup of coffee can look like skin. Its parts must be there, each at least this share of it.
_PARTS = [list(region_ids(part)) for part in ("nose", "eyes + eyeglasses", "lips + mouth")]
_SMALLEST_PART = 0.002
_FACE_BITS = sum(1 << label for label in GROUPS["face"])

# What the search looks at: the share of each of these in every cell of the network's output.
_MAPS = [list(region_ids(name)) for name in ("face", "left eye", "right eye", "eyeglasses", "nose", "lips + mouth")]
_FACE, _LEFT, _RIGHT, _GLASSES, _NOSE, _MOUTH = range(len(_MAPS))
_TABLE = torch.tensor([[float(label in ids) for label in range(NUM_LABELS)] for ids in _MAPS])

# The first look is the whole picture at about this many pixels: it sees faces of 64 pixels and more in it. The second
# has at most so many, and none more than the picture: down to a quarter of the first look's faces.
_FIRST_PIXELS, _SECOND_PIXELS = 512 * 512, 2048 * 1536
_PIXELS_AT_ONCE = 640 * 1024  # what goes through the network at a time
_WIDEST_TILE, _OVERLAP = 1088, 64  # of the second look

# The side of a face's window over the face's height, and the tilt up to which it is not turned with the face.
_FRAME, _UPRIGHT = 2.0, 5.0
# The size of the window of a second look.
_GLANCE = 256
# Where a place is worth it: at least two of three parts this probable somewhere in at least so many cells of face.
_MAYBE, _MAYBE_PART, _FEWEST_CELLS = 0.3, 0.15, 4
_MOST_PLACES = 48
# The least probability of a person's parts that is a trace of one.
_TRACE = 0.06
# Each part is somewhere this probable: perhaps a face if it were framed better; a face.
_LIKELY_PART, _CERTAIN_PART = 0.2, 0.5


ORDERS = ("size", "left to right", "score")
"""How the faces of an image may be numbered: the largest first, as they stand, or the surest first."""


@dataclass(frozen=True)
class Face:
    """One face: its ``index`` in the image, its box ``x, y, width, height`` in pixels (forehead to chin, no hair).

    ``angle``: its tilt in the image in degrees, clockwise; the box is upright all the same and holds the tilted face.
    ``score``: how sure it is, 0..1.
    """

    index: int
    x: int
    y: int
    width: int
    height: int
    angle: float = 0.0
    score: float = 1.0


# ---------------------------------------------------------------------------------------------- in a label map


def has_face(labels: Tensor) -> bool:
    """Whether ``find_faces`` finds any, at a fraction of its cost: skin, a nose, an eye or glasses, lips or a mouth."""
    counts = torch.bincount(labels.flatten(), minlength=NUM_LABELS)
    face = counts[list(GROUPS["face"])].sum().item()
    return all(counts[ids].sum().item() >= max(1, _SMALLEST_PART * face) for ids in _PARTS)


def find_faces(labels: Tensor) -> list[Face]:
    """The faces in a label map, uint8 [H, W], the largest first; ``[]`` if there is none.

    What a face has: see ``has_face``.
    """
    if not has_face(labels):
        return []
    # A bit for each label: several times as fast as a table or isin.
    inside = torch.bitwise_right_shift(_FACE_BITS, labels.int()).bitwise_and_(1).bool()
    box = bounding_box(inside.any(1), inside.any(0))
    # Their places and tilt from a smaller map: every so many-th pixel.
    step = max(1, round(max(labels.shape) / 256))
    few = labels[::step, ::step]
    window = Window(0, 0, few.shape[1] * step, few.shape[0] * step)
    spots = [spot for spot in _distinct(_spots(_one_hot(few), window)) if spot.certain]
    if len(spots) < 2:
        return [Face(0, *box, round(spots[0].angle, 1) if spots else 0.0)]
    return arranged([spot.face(0, labels.shape) for spot in spots], "size", 0)


def _one_hot(labels: Tensor) -> np.ndarray:
    """``_shares`` of labels that are certain."""
    return _TABLE.T[labels.long()].permute(2, 0, 1).numpy()


def bounding_box(rows: Tensor, columns: Tensor) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of what is in these rows [H] and columns [W], bool; None if nothing is."""
    down, across = rows.nonzero().flatten(), columns.nonzero().flatten()
    if not len(down):
        return None
    x, y = across[0].item(), down[0].item()
    return x, y, across[-1].item() - x + 1, down[-1].item() - y + 1


# ---------------------------------------------------------------------------------------------- in whole pictures

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
    found: list[list[_Spot]] = []
    places: list[tuple[int, _Spot]] = []
    finer: list[Look | None] = []
    portraits: set[int] = set()
    for number, (image, look) in enumerate(zip(images, looks, strict=True)):
        spots = _spots(_shares(look.logits), look.window)
        close = [spot for spot in spots if spot.certain]
        alone = len(close) == 1 and fills(close[0].face(0, image.shape), image.shape, others=len(_distinct(spots)) > 1)
        found.append(close if alone else [])
        if alone or not _is_sure(look):
            portraits.add(number)
            finer.append(None)
            continue
        finer.append(_finer_look(image, see, colour) if _hints(look, image.shape) else None)
        if finer[-1]:
            spots += _spots(_shares(finer[-1].logits), finer[-1].window)
        places += [(number, spot) for spot in _distinct(spots)[:_MOST_PLACES]]

    for last in (False, True):
        again = []
        for number, window, spots in _glances(images, places, see, colour):
            for spot in spots:
                # A face that the window does not frame well is judged in one that does.
                if spot.certain and (last or _framed(spot, window)):
                    found[number].append(spot)
                elif spot.likely and not last:
                    again.append((number, spot))
        places = [
            (number, spot)
            for number, others in enumerate(found)
            for spot in _distinct([spot for where, spot in again if where == number], others)
        ]
    results = []
    for number, (image, spots, first, second) in enumerate(zip(images, found, looks, finer, strict=True)):
        faces = arranged([spot.face(0, image.shape) for spot in _distinct(spots)], "size", 0)
        best = second if second and _fits(faces, second) else first
        results.append(Found(faces, best, number in portraits))
    return results


def settle(
    images: Sequence[Tensor], boxes: Sequence[Sequence[Face]], see: See, looks: Sequence[Look], colour: Sequence[float]
) -> list[Found]:
    """As ``search``, of faces whose boxes are known: each is looked at, for its tilt and its exact box. Those that are
    not recognised stay as they are given."""
    places = [(number, _Spot.of(face)) for number, faces in enumerate(boxes) for face in faces]
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
    place = _Spot.of(face)
    ((_, _, spots),) = _glances([image], [(0, place)], see, colour)
    return _recognised(place, spots, image)


def _recognised(place: _Spot, spots: Sequence[_Spot], image: Tensor) -> Face | None:
    """The face of a place, whose index it keeps, among what was seen there."""
    near = [spot for spot in spots if spot.certain and _shared(spot.box, place.box) > 0.5]
    if not near:
        return None
    best = min(near, key=lambda spot: math.dist(spot.window.centre, place.window.centre))
    return best.face(place.index, image.shape)


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
    ``score`` and ``angle``. For a single image a list of boxes will do. Raises ``ValueError`` for anything else and for
    boxes that lie outside of their image.
    """
    if not isinstance(boxes, (list, tuple)):
        raise ValueError(f"faces must be 'auto', 'image' or, of each image, a list of boxes, not {boxes!r}")
    if len(sizes) == 1 and not (len(boxes) == 1 and isinstance(boxes[0], list)):
        boxes = [boxes]
    if len(boxes) != len(sizes):
        raise ValueError(f"there are {len(sizes)} images, but lists of boxes for {len(boxes)}: give one for each")
    return [
        [_from_box(box, index, size) for index, box in enumerate(of_image)]
        for of_image, size in zip(boxes, sizes, strict=True)
    ]


def _from_box(box: object, index: int, size: tuple[int, int]) -> Face:
    names = ("x", "y", "width", "height")
    wrong = f"a face's box is (x, y, width, height) in pixels or a mapping with these, not {box!r}"
    try:
        given = vars(box) if isinstance(box, Face) else dict(box) if isinstance(box, Mapping) else dict(
            zip(names, box, strict=True))  # fmt: skip
        x, y, width, height = (float(given[name]) for name in names)
        angle, score = float(given.get("angle", 0.0)), float(given.get("score", 1.0))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(wrong) from error
    if not all(map(math.isfinite, (x, y, width, height, angle, score))) or width < 1 or height < 1:
        raise ValueError(wrong)
    left, top, right, bottom = round(x), round(y), round(x + width), round(y + height)
    if left >= size[1] or top >= size[0] or right <= 0 or bottom <= 0:
        raise ValueError(f"the face's box {box!r} lies outside of its image, which has {size[1]}x{size[0]} pixels")
    return Face(index, left, top, right - left, bottom - top, angle, score)


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


def fills(face: Face, size: Sequence[int], others: bool = False) -> bool:
    """Whether a picture (height, width) is the portrait of this face: its own window would be most of the picture, or,
    where nothing hints at ``others``, most of its shorter side, as in a video of somebody who speaks."""
    window = framing(face)
    if not others and window.width >= 0.7 * min(size[:2]):
        return True
    width = min(window.x + window.width, size[1]) - max(window.x, 0)
    height = min(window.y + window.height, size[0]) - max(window.y, 0)
    return width * height >= 0.7 * size[0] * size[1]


def framing(face: Face) -> Window:
    """The window of a face: square, the face about half of it, as in the portraits of the training."""
    return _framing((face.x, face.y, face.x + face.width, face.y + face.height), face.angle)


def _framing(box: Sequence[float], angle: float) -> Window:
    """A window around a box (left, top, right, bottom), turned with the face in it if that is strongly tilted."""
    left, top, right, bottom = box
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    # A face is about 3:4. The box around a tilted one is larger than itself.
    tall = (right - left + bottom - top) / (1.75 * (sine + cosine))
    side = _FRAME * tall
    x, y = (left + right) / 2, (top + bottom) / 2
    return Window(x - side / 2, y - side / 2, side, side, angle if abs(angle) > _UPRIGHT else 0.0)


@dataclass(frozen=True)
class _Spot:
    """A place where a face is or may be: its box (left, top, right, bottom) in the image, its tilt and score."""

    box: tuple[float, float, float, float]
    angle: float
    score: float
    likely: bool
    certain: bool
    index: int = 0

    @classmethod
    def of(cls, face: Face) -> _Spot:
        box = face.x, face.y, face.x + face.width, face.y + face.height
        return cls(box, face.angle, face.score, likely=True, certain=False, index=face.index)

    @property
    def window(self) -> Window:
        return _framing(self.box, self.angle)

    def face(self, index: int, size: Sequence[int]) -> Face:
        left, top = (max(0, round(v)) for v in self.box[:2])
        right, bottom = (min(most, round(v)) for v, most in zip(self.box[2:], (size[1], size[0]), strict=True))
        width, height = max(1, right - left), max(1, bottom - top)
        return Face(index, left, top, width, height, round(self.angle, 1), round(self.score, 3))


def _shares(logits: Tensor) -> np.ndarray:
    """Of each cell the probability of each of ``_MAPS``, float32 [6, h, w]."""
    likely = logits.softmax(0)
    return (_TABLE.to(likely.device) @ likely.flatten(1)).view(-1, *logits.shape[1:]).cpu().numpy()


def _spots(shares: np.ndarray, window: Window) -> list[_Spot]:
    """Places in what the network saw of a ``window``: connected cells of face, divided among the noses in them."""
    pieces, count = connected(shares[_FACE] > _MAYBE)
    rows, columns = pieces.nonzero()
    piece = pieces[rows, columns]
    order = np.argsort(piece, kind="stable")
    rows, columns = rows[order], columns[order]
    ends = np.cumsum(np.bincount(piece, minlength=count + 1))
    spots = []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        y, x = rows[start:end], columns[start:end]
        values = shares[:, y, x]
        if end - start < _FEWEST_CELLS or np.partition(_peaks(values), 1)[1] < _MAYBE_PART:
            continue
        noses = _noses(values[_NOSE], y, x)
        owners = ((y[:, None] - noses[:, 0]) ** 2 + (x[:, None] - noses[:, 1]) ** 2).argmin(1)
        for owner in range(len(noses)):
            mine = owners == owner
            if mine.sum() >= _FEWEST_CELLS:
                spots.append(_spot(values[:, mine], y[mine], x[mine], shares.shape[1:], window))
    return spots


def _noses(share: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where the noses are in connected cells ``y, x`` of face, (row, column) [n, 2]; one, anywhere, if none is seen."""
    there = share > _MAYBE
    if not there.any():
        return np.zeros((1, 2))
    share, y, x = share[there], y[there], x[there]
    mask = np.zeros((y.max() - y.min() + 1, x.max() - x.min() + 1), dtype=bool)
    mask[y - y.min(), x - x.min()] = True
    blobs, _ = connected(mask)
    blob = blobs[y - y.min(), x - x.min()] - 1
    areas, weights = np.bincount(blob), np.bincount(blob, share)
    centres = np.stack([np.bincount(blob, share * y), np.bincount(blob, share * x)], axis=1) / weights[:, None]
    kept: list[int] = []
    for nose in np.argsort(-areas, kind="stable"):
        # Two noses are at least a face apart, which is several noses wide: what is nearer is a piece of the larger one.
        if all(math.dist(centres[nose], centres[other]) > 2.2 * math.sqrt(areas[other]) for other in kept):
            kept.append(int(nose))
    return centres[kept]


def _peaks(shares: np.ndarray) -> np.ndarray:
    """The highest probability of eyes or glasses, of the nose and of the mouth."""
    highest = shares.reshape(len(shares), -1).max(1)
    return highest[[_LEFT, _RIGHT, _GLASSES]].max(), highest[_NOSE], highest[_MOUTH]


def _spot(values: np.ndarray, y: np.ndarray, x: np.ndarray, cells: tuple[int, int], window: Window) -> _Spot:
    """One place, from the shares [6, n] of its cells at ``y, x``."""
    eyes, nose, mouth = _peaks(values)
    down, across = window.height / cells[0], window.width / cells[1]
    points = np.stack([(x + 0.5) * across, (y + 0.5) * down])

    def centre(share):
        weights = np.where(share > 0.5 * share.max(), share, 0)
        return points @ weights / weights.sum()

    angle, straight = 0.0, False
    if min(eyes, nose, mouth) >= _LIKELY_PART:
        eye = centre(values[[_LEFT, _RIGHT, _GLASSES]].max(0))
        axis = centre(values[_MOUTH]) - eye
        if values[_LEFT].max() > 0.3 and values[_RIGHT].max() > 0.3:
            # From the person's right eye to the left one, turned by a right angle: it points down, too.
            line = centre(values[_LEFT]) - centre(values[_RIGHT])
            eye = (centre(values[_LEFT]) + centre(values[_RIGHT])) / 2
            axis = centre(values[_MOUTH]) - eye
            axis_and_line = axis + np.array([-line[1], line[0]])
        else:
            axis_and_line = axis
        angle = math.degrees(math.atan2(-axis_and_line[0], axis_and_line[1]))
        along = (centre(values[_NOSE]) - eye) @ axis / max(axis @ axis, 1e-6)
        straight = 0.0 < along < 1.1
    face = values[_FACE] > 0.5
    if not face.any():
        face = values[_FACE] >= values[_FACE].max()
    left, top = x[face].min() * across, y[face].min() * down
    right, bottom = (x[face].max() + 1) * across, (y[face].max() + 1) * down
    parts = min(eyes, nose, mouth)
    return _Spot(
        _turned_box((left, top, right, bottom), window),
        (angle + window.angle + 180) % 360 - 180,
        float((eyes * nose * mouth) ** (1 / 3)),
        likely=parts >= _LIKELY_PART,
        certain=parts >= _CERTAIN_PART and straight,
    )


def _turned_box(box: tuple[float, float, float, float], window: Window) -> tuple[float, float, float, float]:
    """The upright box, in the image, of a box in a window; of a turned one that of the ellipse in it."""
    x, y = (box[0] + box[2]) / 2 - window.width / 2, (box[1] + box[3]) / 2 - window.height / 2
    sine, cosine = math.sin(math.radians(window.angle)), math.cos(math.radians(window.angle))
    x, y = window.centre[0] + cosine * x - sine * y, window.centre[1] + sine * x + cosine * y
    a, b = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    wide, high = math.hypot(a * cosine, b * sine), math.hypot(a * sine, b * cosine)
    return x - wide, y - high, x + wide, y + high


def _framed(spot: _Spot, window: Window) -> bool:
    """Whether a window shows this place upright, in its middle and at the size that it should have."""
    wanted = spot.window
    size = wanted.width / window.width
    away = math.dist(wanted.centre, window.centre) / window.width
    return 0.7 < size < 1.5 and away < 0.15 and abs((spot.angle - window.angle + 180) % 360 - 180) < 20


def _distinct(spots: Sequence[_Spot], others: Sequence[_Spot] = ()) -> list[_Spot]:
    """The spots, best first, without those that are mostly one that is better or one of the others."""
    kept: list[_Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.certain, spot.score), reverse=True):
        if all(_shared(spot.box, other.box) < 0.5 for other in (*kept, *others)):
            kept.append(spot)
    return kept


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    """How much of the smaller of two boxes (left, top, right, bottom) lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


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
    images: Sequence[Tensor], places: list[tuple[int, _Spot]], see: See, colour: Sequence[float]
) -> Iterator[tuple[int, Window, list[_Spot]]]:
    """Of each place (the image's number, a spot) the window in which it was looked at, and what was there."""
    at_once = _PIXELS_AT_ONCE // _GLANCE**2
    for start in range(0, len(places), at_once):
        batch = [(number, spot.window) for number, spot in places[start : start + at_once]]
        pieces = [cut(images[number], window, _GLANCE, colour) for number, window in batch]
        if len({piece.dtype for piece in pieces}) > 1:
            pieces = [piece / 255 if piece.dtype == torch.uint8 else piece for piece in pieces]
        for (number, window), logits in zip(batch, see(torch.stack(pieces)), strict=True):
            yield number, window, _spots(_shares(logits), window)
