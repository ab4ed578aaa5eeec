"""Windows: pieces of an image that the network sees by themselves, and how what it saw of them is put together."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.face import CONFIRMED, Face
from faceparse_core.labels import NUM_LABELS, region_ids
from faceparse_core.rendering import Window

# A window whose side is longer than this, and which has more pixels than its image, is cut out of a reduced image.
_LARGEST_SIDE = 4096
# One that is turned is sampled in so many slices.
_SLICES = 8


def padded(image: Tensor, left: int, top: int, size: tuple[int, int], colour: Sequence[float]) -> Tensor:
    """The image [H, W, 3] with its corner at ``left, top`` (they may be negative) of a field of ``size``, of one
    ``colour``, three in 0..1, where the image is not."""
    height, width = image.shape[:2]
    if (left, top) == (0, 0) and (height, width) == size:
        return image
    scale = 255 if image.dtype == torch.uint8 else 1
    field = torch.tensor(colour, device=image.device).mul(scale).to(image.dtype).repeat(*size, 1)
    y, x = slice(max(0, top), min(size[0], top + height)), slice(max(0, left), min(size[1], left + width))
    if y.start < y.stop and x.start < x.stop:
        field[y, x] = image[y.start - top : y.stop - top, x.start - left : x.stop - left]
    return field


def cut(image: Tensor, window: Window, size: int, colour: Sequence[float]) -> Tensor:
    """What lies in a square ``window`` of the image, [H, W, 3], upright and brought to ``size`` pixels a side.

    The dtype stays. Beyond the image there is the ``colour``, three in 0..1.
    """
    x, y = window.centre
    # A turned window lies within a square that is larger by a half at most.
    reach = _extent(window)[0]
    left, top = math.floor(x - reach / 2), math.floor(y - reach / 2)
    side = max(1, round(reach))
    shrink = max(1, math.ceil(side / max(_LARGEST_SIDE, math.sqrt(image.shape[0] * image.shape[1]))))
    if shrink > 1:  # nothing of the window's own size is made
        height, width = (math.ceil(length / shrink) for length in image.shape[:2])
        image, x, y, reach = pictures.resize(image, (height, width)), x / shrink, y / shrink, reach / shrink
        left, top, side = math.floor(x - reach / 2), math.floor(y - reach / 2), max(1, round(reach))
    piece = padded(image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)],
                   max(0, -left), max(0, -top), (side, side), colour)  # fmt: skip
    if not window.angle:
        return pictures.resize(piece, (size, size))
    # What is reduced is so before it is turned; turning enlarges by itself.
    scaled = min(side, round(size * side * shrink / window.width))
    piece = pictures.resize(piece, (scaled, scaled)).permute(2, 0, 1)[None].contiguous().float()
    # Where each pixel lies in the piece, from -1 to 1: to turn a point is to multiply it as a complex number.
    turn = cmath.rect(window.width / shrink / side, math.radians(window.angle))
    middle = complex(2 * (x - left) / side - 1, 2 * (y - top) / side - 1)
    along = (torch.arange(size) + 0.5) * (2 / size) - 1
    grid = torch.view_as_real(along * turn + middle + (along * (1j * turn))[:, None]).to(piece.device)
    # torch shares work among threads by the picture, so it is told that these are several.
    rows = grid.view(_SLICES if size % _SLICES == 0 else 1, -1, size, 2)
    pieces = piece.expand(len(rows), -1, -1, -1)
    slices = F.grid_sample(pieces, rows, padding_mode="border", align_corners=False)
    if image.dtype == torch.uint8:
        slices = slices.round_().to(torch.uint8)
    return slices.permute(0, 2, 3, 1).reshape(size, size, -1)


def cuts(pieces: Sequence[tuple[Tensor, Window]], size: int, colour: Sequence[float]) -> Tensor:
    """Of each image what lies in its window, as ``cut`` gives it: [n, size, size, 3] on the device of the first, uint8
    if all of them are, else float32 in 0..1."""
    device = pieces[0][0].device
    dtype = torch.uint8 if all(image.dtype == torch.uint8 for image, _ in pieces) else torch.float32
    seen = torch.empty(len(pieces), size, size, 3, dtype=dtype, device=device)
    for place, (image, window) in zip(seen, pieces, strict=True):
        piece = cut(image, window, size, colour)
        place.copy_(piece if dtype == torch.uint8 else pictures.as_float(piece))
    return seen


# ---------------------------------------------------------------------------------------------- put together

# From this share of the way from the middle of a window to its border on, what was seen in it counts less and less.
_SURE = 0.7
# How quickly a window gives way to another whose middle is nearer.
_NEARNESS = 6.0
# How many cells of background around a person are left as they were seen.
_RIM = 4
# Somebody whose face is turned away shows at least so many cells of hair or hat that are this probable.
_FEWEST_HAIR, _SURE_HAIR = 30, 0.8
_HEAD = list(region_ids("hair + hat"))
# Where there is a face, the network sees one in so much of its box, with such a probability, even if most of the face
# is covered; where the finder is sure, it is enough that so much of the box is probable; where it hardly believes in
# one, the network must be so sure of each of the parts that every face has.
_SHOWN, _PROBABLE = 0.1, 0.3
_SURE_FACE, _SHOWN_OF_SURE = 0.7, 0.05
_SURE_PART = 0.9
_PARTS = [list(region_ids(part)) for part in ("eyes + eyeglasses", "nose", "mouth_area")]
_FACE = list(region_ids("skin + nose + eyes + brows + lips + mouth + eyeglasses"))
# How many heights of a face away from its middle a label may be. What is taken for it further away is something else.
_REACH = {
    "eyes + brows + eyeglasses + nose + mouth_area": 0.65,
    "skin + ears": 0.9,
    "neck + necklace": 2.0,
    "hair + hat + earring": 3.0,
    "clothing": 9.0,
}


@dataclass(frozen=True)
class Look:
    """What the network made of a window: logits, float32 [19, h, w]."""

    logits: Tensor
    window: Window


@dataclass(frozen=True)
class Seen:
    """What the network made of an image: the look at the ``whole`` of it, and ``details``, those at its faces."""

    whole: Look
    details: list[Look]


@dataclass(frozen=True)
class Scene:
    """An image put together from several looks: upright ones, to be painted over each other in order on background,
    and whose each cell of ``window`` is: the place of the face in the list, or after all of them for somebody without
    one, uint8 [h, w]."""

    looks: tuple[Look, ...]
    owner: Tensor
    window: Window


def are_shown(faces: Sequence[Face], looks: Sequence[Look]) -> list[bool]:
    """Of each face whether the look at it shows some of one where it should be: else the finder was wrong."""
    if not faces:
        return []
    shown = []
    for face, look in zip(faces, looks, strict=True):
        cells = _cells((16, 16), Window(face.x, face.y, face.width, face.height), look.logits.device)
        seen = _sampled(look, cells).softmax(0)
        of_face = seen[_FACE].sum(0)
        least = _SHOWN_OF_SURE if face.score >= _SURE_FACE else torch.inf
        is_one = ((of_face > _PROBABLE).float().mean() >= _SHOWN) | (of_face.mean() >= least)
        if face.score < CONFIRMED:
            is_one &= torch.stack([seen[part].sum(0).max() for part in _PARTS]).min() >= _SURE_PART
        shown.append(is_one)
    return torch.stack(shown).tolist()


def compose(whole: Look, size: tuple[int, int], details: Sequence[Look], others: bool = True) -> Scene:
    """One picture of what was seen of an image of ``size`` (height, width) and, more exactly, of each of its faces.

    ``whole``: a window that holds the image; ``details``: of each face a square window, twice as high as the face,
    that may be turned.

    In the whole what hangs together with a face is left, and, with ``others``, whoever has hair or a hat though no
    face; the rest is background. Over it lie the surroundings of each face, those of the largest first. Where windows
    meet, the one whose middle is nearer counts more, and towards its border each gives way to the whole, so that it
    ends in what lies under it.
    """
    whole, kept, owner = _attached(whole, [detail.window for detail in details], others)
    looks = [_cropped(whole, kept, size)] if kept.any() else []
    largest_first = sorted(details, key=lambda detail: -detail.window.width)
    for n, detail in enumerate(largest_first):
        place = _reached(detail.window, size)
        if place.width <= 0 or place.height <= 0:
            continue
        cell = detail.window.width / detail.logits.shape[2]
        cells = math.ceil(place.height / cell), math.ceil(place.width / cell)
        # Those after it are painted over it.
        looks.append(Look(_mixed(whole, largest_first[: n + 1], place, cells), place))
    return Scene(tuple(looks), owner, whole.window)


def _cropped(look: Look, kept: Tensor, size: tuple[int, int]) -> Look:
    """The part of a look that is ``kept``, bool [h, w], on whole pixels of the image."""
    cells_down, cells_across = kept.shape
    down, across = look.window.height / cells_down, look.window.width / cells_across
    rows, columns = kept.any(1).nonzero().flatten(), kept.any(0).nonzero().flatten()
    top, bottom = look.window.y + (rows[0].item() - 1) * down, look.window.y + (rows[-1].item() + 2) * down
    left, right = look.window.x + (columns[0].item() - 1) * across, look.window.x + (columns[-1].item() + 2) * across
    place = _reached(Window(left, top, right - left, bottom - top), size)
    cells = _cells((math.ceil(place.height / down), math.ceil(place.width / across)), place, look.logits.device)
    return Look(_sampled(look, cells), place)


def _mixed(base: Look, details: Sequence[Look], place: Window, size: tuple[int, int]) -> Tensor:
    """Logits [19, h, w] of the cells, ``size`` of them, of a place: of the details, and where they end of the base."""
    device = base.logits.device
    x, y = _cells(size, place, device)
    total, rest = torch.zeros(size, device=device), torch.ones(size, device=device)
    away = torch.full(size, torch.inf, device=device)  # as a square
    parts = []
    for detail in details:
        # All that follows is of the cells that it reaches: of most details none.
        part = rows, columns = _cells_within(detail.window, place, size)
        if not total[part].numel():
            continue
        across, down = _within(detail.window, (x[:, columns], y[rows]))
        inside = ((1 - torch.maximum(across.abs(), down.abs())) / (1 - _SURE)).clamp_(0, 1)
        distance = across.square() + down.square()
        weight = torch.exp(distance * -_NEARNESS).mul_(inside)
        total[part] += weight
        rest[part] *= 1 - inside
        away[part] = torch.minimum(away[part], distance)
        parts.append((detail, part, across, down, weight))
    mixed = _weighted(base, *_within(base.window, (x, y)), rest)  # where nothing is inside, rest is 1
    share = (1 - rest) / total.clamp_min(1e-12)
    for detail, part, across, down, weight in parts:
        mixed[part] += _weighted(detail, across, down, weight.mul_(share[part]))
    mixed = mixed.permute(2, 0, 1).contiguous()
    farthest = away.max().item()
    for region, most in _REACH.items():
        if farthest > most**2:
            beyond = away > most**2
            for label in region_ids(region):
                mixed[label].masked_fill_(beyond, -20)
    return mixed


def _cells_within(window: Window, place: Window, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the cells of an upright place, ``size`` of them, that a window reaches."""
    x, y = window.centre
    wide, high = _extent(window)
    down, across = place.height / size[0], place.width / size[1]
    first, last = (y - high / 2 - place.y) / down, (y + high / 2 - place.y) / down
    left, right = (x - wide / 2 - place.x) / across, (x + wide / 2 - place.x) / across
    return (
        slice(max(0, math.floor(first)), max(0, math.ceil(last))),
        slice(max(0, math.floor(left)), max(0, math.ceil(right))),
    )


def _cells(cells: Sequence[int], window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """The centres of cells in an upright window, in the image's pixels: x of the columns, float32 [1, w], and y of the
    rows, [h, 1]."""
    x = window.x + (torch.arange(cells[1], dtype=torch.float32) + 0.5) * (window.width / cells[1])
    y = window.y + (torch.arange(cells[0], dtype=torch.float32) + 0.5) * (window.height / cells[0])
    return x[None].to(device), y[:, None].to(device)


def resampled(look: Look, like: Look) -> Look:
    """A look brought to the window and the cells of another."""
    window, cells = like.window, like.logits.shape[1:]
    (x, y), (wide, high) = window.centre, (window.width, window.height)
    across, down = _cells(cells, Window(-wide / 2, -high / 2, wide, high), look.logits.device)
    if window.angle:
        sine, cosine = _turn(window)
        across, down = cosine * across - sine * down, sine * across + cosine * down
    return Look(_sampled(look, (x + across, y + down)), window)


def _turn(window: Window) -> tuple[float, float]:
    """The sine and the cosine of a window's angle."""
    return math.sin(math.radians(window.angle)), math.cos(math.radians(window.angle))


def _within(window: Window, points: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Where points, x and y, lie in a window: from -1 to 1 across and down, along its own axes. In an upright one what
    is said by columns and rows stays so."""
    x, y = points[0] - window.centre[0], points[1] - window.centre[1]
    wide, high = window.width / 2, window.height / 2
    if not window.angle:
        return x / wide, y / high
    sine, cosine = _turn(window)
    return x * (cosine / wide) + y * (sine / wide), y * (cosine / high) - x * (sine / high)


def _sampled(look: Look, points: tuple[Tensor, Tensor]) -> Tensor:
    """Logits at points, x and y as of ``_cells`` or [H, W] both, of the image: [19, H, W]."""
    return _weighted(look, *_within(look.window, points)).permute(2, 0, 1)


def _weighted(look: Look, across: Tensor, down: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Logits at places of a look's window, from -1 to 1 across and down, [1, W] and [H, 1] or [H, W] both, each times
    its weight [H, W]; bilinear, beyond the window as at its border: [H, W, 19].

    What ``grid_sample`` does for each label, here of the labels of a cell together: as they come from the network.
    """
    labels, height, width = look.logits.shape
    x, y = (((across + 1) * width - 1) / 2).clamp_(0, width - 1), (((down + 1) * height - 1) / 2).clamp_(0, height - 1)
    # The last cell is the right one, or the lower one, of the two before the border; of a single cell it is both.
    left, top = x.floor().clamp_(max=max(0, width - 2)), y.floor().clamp_(max=max(0, height - 2))
    aside, under = min(1, width - 1), width * min(1, height - 1)
    first = (top * width + left).int()
    below = (y - top) * weight
    above = weight - below
    right = x - left
    below_right, above_right = below * right, above * right
    cells = torch.stack([first, first + aside, first + under, first + under + aside], -1).view(-1, 4)
    weights = torch.stack([above - above_right, above_right, below - below_right, below_right], -1).view(-1, 4)
    table = look.logits.permute(1, 2, 0).reshape(-1, labels)
    if table.device.type == "cpu":
        sums = F.embedding_bag(cells, table, mode="sum", per_sample_weights=weights)
    else:  # not every device has it
        sums = (table[cells.long()] * weights[..., None]).sum(1)
    return sums.view(*first.shape, labels)


def _reached(window: Window, size: tuple[int, int]) -> Window:
    """The upright window of the pixels of an image that a window, which may be turned, reaches."""
    x, y = window.centre
    wide, high = _extent(window)
    left, top = max(0, math.floor(x - wide / 2)), max(0, math.floor(y - high / 2))
    right, bottom = min(size[1], math.ceil(x + wide / 2)), min(size[0], math.ceil(y + high / 2))
    return Window(left, top, right - left, bottom - top)


def _extent(window: Window) -> tuple[float, float]:
    """How wide and high the upright rectangle around a window is, which may be turned."""
    sine, cosine = map(abs, _turn(window))
    return cosine * window.width + sine * window.height, sine * window.width + cosine * window.height


def _attached(whole: Look, faces: Sequence[Window], others: bool) -> tuple[Look, Tensor, Tensor]:
    """The whole with nothing but background where there is nobody; where somebody is, bool [h, w]: what hangs together
    with a face, and people who show hair alone; and whose each cell is, as in ``Scene``."""
    device = whole.logits.device
    nothing = background(device, 20)
    if not faces:
        return Look(nothing, whole.window), torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.uint8)
    away, owner = _distances(faces, _cells(whole.logits.shape[1:], whole.window, device)).min(0)
    # As they come from the network the labels of a cell lie together.
    labels = whole.logits.permute(1, 2, 0).max(2).indices
    person = ((labels > 0) & (away <= _reach(device)[labels])).cpu().numpy()
    pieces, count = connected(person)
    near, owner, labels = (away < 0.5).cpu().numpy(), owner.cpu().numpy(), labels.cpu().numpy()
    # The faces that each piece holds, as a table.
    holds = np.zeros((count + 1, len(faces)), dtype=bool)
    holds[pieces[near], owner[near]] = True
    holds[0] = False
    keep = holds.max(1)[pieces]
    # A piece with one face is of that person, however near the next is.
    alone = (holds.sum(1) == 1)[pieces]
    owner[alone] = holds.argmax(1)[pieces[alone]]
    if others:
        turned_away = _without_face(whole.logits, labels, keep)
        keep |= turned_away
        owner[turned_away] = len(faces)
    # With a rim, in which the background stays as uncertain as it was seen, and which belongs to whom it surrounds.
    theirs = np.where(keep, owner + 1, 0)
    free = labels == 0  # what is too far from its face to be what it looks like is no part of the rim
    for _ in range(_RIM):
        theirs = np.where((theirs == 0) & free, _widest(theirs), theirs)
    kept = torch.from_numpy(theirs > 0)
    owner = torch.from_numpy(np.where(theirs > 0, theirs - 1, owner).astype(np.uint8))
    return Look(torch.where(kept.to(device), whole.logits, nothing), whole.window), kept, owner


def _widest(numbers: np.ndarray) -> np.ndarray:
    """Of each cell the largest of the numbers [h, w] in it and the eight around it."""
    rows = np.pad(numbers, ((1, 1), (0, 0)))
    rows = np.maximum(np.maximum(rows[:-2], rows[1:-1]), rows[2:])
    cells = np.pad(rows, ((0, 0), (1, 1)))
    return np.maximum(np.maximum(cells[:, :-2], cells[:, 1:-1]), cells[:, 2:])


def _without_face(logits: Tensor, labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Where beside what is kept there are people whose faces are turned away, bool [h, w]."""
    hair = np.isin(labels, _HEAD) & ~kept
    if hair.sum() >= _FEWEST_HAIR:
        seen = logits[:, torch.from_numpy(hair).to(logits.device)]
        hair[hair] = (seen.softmax(0)[_HEAD].sum(0) > _SURE_HAIR).cpu().numpy()
    if hair.sum() < _FEWEST_HAIR:
        return np.zeros_like(kept)
    pieces, count = connected((labels > 0) & ~kept)
    enough = np.bincount(pieces[hair], minlength=count + 1) >= _FEWEST_HAIR
    enough[0] = False
    return enough[pieces]


def _reach(device: torch.device) -> Tensor:
    """``_REACH`` of each label, [19]; the background is everywhere."""
    reach = torch.full((NUM_LABELS,), torch.inf)
    for region, most in _REACH.items():
        reach[list(region_ids(region))] = most
    return reach.to(device)


def _distances(faces: Sequence[Window], points: tuple[Tensor, Tensor]) -> Tensor:
    """How far points, x and y as of ``_cells``, are from each of the faces, in heights of the face: [faces, h, w]."""
    return torch.stack([torch.hypot(*_within(window, points)) for window in faces])


def nearest(faces: Sequence[Window], window: Window) -> Tensor:
    """Of each cell of an upright window the number of the nearest face, uint8 [128, 128]."""
    return _distances(faces, _cells((128, 128), window, torch.device("cpu"))).argmin(0).to(torch.uint8)


def background(device: torch.device, certainty: float = 1e4) -> Tensor:
    """Logits [19, 1, 1] of what is background for certain, or as certain as a network is of what it sees."""
    logits = torch.full((NUM_LABELS, 1, 1), -certainty, device=device)  # finite: infinities cannot be interpolated
    logits[0] = 0
    return logits


def connected(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The pieces of a mask, bool [h, w], that hang together, corners too: int [h, w], 1 and up, 0 outside; how many.

    Runs of each row, joined with those that they touch in the row before. (What scipy's ``label`` does, whose import
    takes longer than parsing an image.)
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    # Places as one number, with room between the rows: everything stays in order.
    row, column = np.nonzero(edges == 1)
    starts = row * (width + 3) + column
    ends = row * (width + 3) + np.nonzero(edges == -1)[1]
    first = np.searchsorted(ends, starts - (width + 3), side="left")
    count = np.searchsorted(starts, ends - (width + 3), side="right") - first
    count = np.maximum(count, 0)
    lower = np.repeat(np.arange(len(starts)), count)
    upper = np.arange(len(lower)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    root = np.arange(len(starts))
    while True:
        lowest = np.minimum(root[lower], root[upper])
        joined = root.copy()
        np.minimum.at(joined, root[lower], lowest)
        np.minimum.at(joined, root[upper], lowest)
        while not np.array_equal(joined, joined[joined]):
            joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    names, piece = np.unique(root, return_inverse=True)
    labels = np.zeros(mask.shape, dtype=np.int64)
    labels[mask] = np.repeat(piece + 1, ends - starts)
    return labels, len(names)
