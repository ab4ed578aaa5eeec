"""Faces as square crops, and edited crops put back where they came from.

Each crop has a place: a square in its image, upright, or turned with the face. What lies beyond the image repeats its
border. Crops that are smaller than their place are made with antialias; edited crops may have any size when they come
back. Where the places of two faces overlap, each pixel is taken from the crop whose face is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.errors import LARGEST, number, said
from faceparse_core.faces.face import Face, clipped
from faceparse_core.faces.landmarks import face_axes
from faceparse_core.labels import resolve
from faceparse_core.masks import as_mask, feathered

if TYPE_CHECKING:
    from faceparse_core.images import Images

# Without a size, crops have one that is a multiple of this: encoders of images cut others.
_STEP = 8
# Between two faces the blend goes from one crop to the other over this share of a crop's side.
_BORDER = 0.25
# A crop has so many pixels a side at most.
_LARGEST = 8192


@dataclass(frozen=True)
class Place:
    """Where a crop lies: which ``face`` (its index) of which ``image``, and the square around the point (``x``, ``y``)
    with sides of ``side`` pixels, turned clockwise by ``angle`` degrees."""

    image: int
    face: int
    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The upright box around it, (x, y, width, height) in whole pixels; it may reach beyond the image."""
        sine, cosine = abs(math.sin(math.radians(self.angle))), abs(math.cos(math.radians(self.angle)))
        half = self.side / 2 * (sine + cosine)
        # Rounded first: an upright square lies on whole pixels, and its half can be half a one.
        left, top = math.floor(round(self.x - half, 6)), math.floor(round(self.y - half, 6))
        return left, top, math.ceil(round(self.x + half, 6)) - left, math.ceil(round(self.y + half, 6)) - top


@dataclass(frozen=True)
class FaceCrops:
    """Where crops came from: the ``places`` of all, the ``size`` in pixels that each has, and the (height, width) of
    each image, ``sizes``. ``len`` is the number of crops, which may be 0."""

    places: tuple[Place, ...]
    size: int
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)


class Parsed(Protocol):
    """What is needed here of a ``Parsing``, which is made of faces and so lies above them."""

    sizes: list[tuple[int, int]]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Parsed]: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def faces(self) -> list[list[Face]]: ...
    def mask(self, region: str) -> Tensor: ...


def crop_faces(
    images: Images,
    faces: Parsed | Sequence[Sequence[Face]],
    *,
    size: int = 512,
    padding: float = 0.5,
    face: str | int = "all",
    align: bool = False,
    region: str = "face",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, FaceCrops]:
    """Square crops of faces: the crops, float32 [N, size, size, 3] in 0..1, their masks, float32 [N, size, size] in
    0..1, and where they came from, for :func:`paste_faces`. Images without a face give no crop: N may be 0.

    ``images``: in any form that ``parse`` takes. ``faces``: their parsing, or for each a list of faces. ``padding`` is
    what is added around a face's box on each side, as a share of its longer side; where a crop would reach beyond the
    image it is moved and its padding cut short, as long as the face stays in. ``size`` 0: all crops are as large as the
    largest needs, and no pixel is resampled. ``face``: "all", "largest", or an index, of which each image gives the
    face that has it. ``align``: turned with the face, so that it is upright in the crop. ``region``: what the masks
    show; without a parsing they show the face's box. ``progress(done, total)`` is called after each crop; an exception
    from it stops the work.
    """
    images = pictures.load(images)
    size = number("size", size, 0, _LARGEST, whole=True)
    if 0 < size < _STEP:
        raise ValueError(f"size must be at least {_STEP}, or 0 for the size the faces have in the images, not {size}")
    padding = number("padding", padding, 0, 10)
    parsing = cast(Parsed, faces) if hasattr(faces, "mask") else None
    known = parsing.faces if parsing else _checked(faces)
    if len(known) != len(images):
        raise ValueError(f"there are {len(images)} images, but the faces are those of {len(known)}: give as many")
    resolve(region)
    sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    if parsing and list(sizes) != parsing.sizes:
        raise ValueError("the faces were found in images of other sizes: give the images that were parsed")

    parsed = list(parsing) if parsing else None  # one by one: they may differ in size
    places = []
    for i, found in enumerate(known):
        for one in _chosen(found, face):
            angle = _angle(one, parsed[i].labels[0] if parsed else None) if align else 0.0
            places.append(_place(i, one, sizes[i], padding, angle))
    if not size:
        size = max((math.ceil(place.side / _STEP) * _STEP for place in places), default=0)
        places = [_placed(p.image, p.face, p.x, p.y, size, p.angle, sizes[p.image]) for p in places]

    crops, masks = torch.empty(len(places), size, size, 3), torch.empty(len(places), size, size)
    mask, masked = torch.empty(0), None
    for done, (crop, its_mask, place) in enumerate(zip(crops, masks, places, strict=True), 1):
        if parsed and masked != place.image:
            mask, masked = parsed[place.image].mask(region)[0, ..., None], place.image
        elif not parsed:
            mask = _box_mask(sizes[place.image], next(f for f in known[place.image] if f.index == place.face))
        crop.copy_(_taken(images[place.image], place, size)).clamp_(0, 1)
        its_mask.copy_(_taken(mask, place, size)[..., 0]).clamp_(0, 1)  # averages overshoot by a last bit
        if progress:
            progress(done, len(places))
    return crops, masks, FaceCrops(tuple(places), size, sizes)


def paste_faces(
    images: Images,
    crops: Images,
    places: FaceCrops,
    *,
    mask: Tensor | None = None,
    feather: float = 24.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | list[Tensor]:
    """The images with edited crops put back, each blended in over a soft edge.

    ``images``: those that were cropped. A tensor [B, H, W, C] gives a tensor, its alpha as it was; anything else a list
    of [H, W, 3], uint8 or float32 as ``pictures.load`` gives it. What was given is not changed. ``crops``: one for each
    place, square, of any size. ``mask``: float [N, h, w] in 0..1, what of each crop is put back (a single one counts
    for all); without one it is the whole crop. ``feather``: the width of the soft edge, in pixels of the crops as they
    were made: inside the border of a crop, around the edge of a mask. At the border of the image there is no soft edge.
    ``progress(done, total)`` is called after each crop; an exception from it stops the work.

    Where the mask is 0 and outside of the crops, pixels are those of the images, to the bit; so are those of crops that
    were not edited and were made without resampling. Raises ValueError for crops, masks and images that do not fit.
    """
    whole = images if isinstance(images, Tensor) and images.ndim == 4 else None
    loaded = pictures.load(images)
    if tuple((image.shape[0], image.shape[1]) for image in loaded) != places.sizes:
        raise ValueError(
            f"the faces were cropped from {_sizes(places.sizes)}, but these are "
            f"{_sizes([(image.shape[0], image.shape[1]) for image in loaded])}: give the images that were cropped"
        )
    feather = number("feather", feather, 0)
    if not places.places:
        return loaded if whole is None else whole
    crops = pictures.load(crops)
    if len(crops) != len(places):
        raise ValueError(f"{len(places)} faces were cropped, but there are {len(crops)} crops: give one for each")
    for i, crop in enumerate(crops):
        if crop.shape[0] != crop.shape[1]:
            raise ValueError(f"crop {i} is {crop.shape[1]}x{crop.shape[0]}: crops must stay square, of any size")
    if mask is not None:
        mask = as_mask(mask)
        if len(mask) not in (1, len(places)) or mask.shape[1] != mask.shape[2]:
            raise ValueError(
                f"the mask is {len(mask)} of {mask.shape[2]}x{mask.shape[1]}: give one for each of the {len(places)} "
                "crops, or a single one, as square as they are"
            )
        mask = feathered(mask, feather * mask.shape[1] / places.size).cpu()

    result = [image.clone() for image in loaded] if whole is None else whole.clone()
    pasted: list[tuple[Place, tuple[slice, slice], Tensor]] = []
    for i, (crop, place) in enumerate(zip(crops, places.places, strict=True)):
        image = result[place.image][..., :3]
        there = _inside(place.box, image.shape)
        weight = _window(place, there, image.shape, feather * place.side / places.size)
        if mask is not None:
            weight *= _given(mask[i % len(mask)][..., None], place, there)[..., 0]
        for other, elsewhere, its_weight in pasted:
            if other.image == place.image:
                _give_way(weight, place, there, its_weight, other, elsewhere)
        pasted.append((place, there, weight))
        _blend(image[there], _given(crop, place, there), weight[..., None])
        if progress:
            progress(i + 1, len(places))
    return result


# ---------------------------------------------------------------------------------------------- places


def _checked(faces: Any) -> Sequence[Sequence[Face]]:
    """Faces that somebody gives, of each image a list."""
    if not isinstance(faces, (list, tuple)) or not all(isinstance(of_image, (list, tuple)) for of_image in faces):
        raise ValueError(f"faces must be a Parsing or, of each image, a list of faces, not {said(repr(faces))}")
    for face in (face for of_image in faces for face in of_image):
        if not all(hasattr(face, name) for name in ("index", "x", "y", "width", "height")):
            raise ValueError(f"a face has an index, x, y, width and height; {said(repr(face))} has not")
        for name in ("x", "y", "width", "height", "angle"):
            number(f"a face's {name}", getattr(face, name, 0.0), 1 if name in ("width", "height") else -LARGEST)
    return faces


def _chosen(faces: Sequence[Face], which: str | int) -> list[Face]:
    if which == "all":
        return list(faces)
    if which == "largest":
        return sorted(faces, key=lambda face: face.width * face.height)[-1:]
    if isinstance(which, int) and not isinstance(which, bool) and which >= 0:
        return [face for face in faces if face.index == which]
    raise ValueError(f"face must be 'all', 'largest' or an index from 0, not {which!r}")


def _angle(face: Face, labels: Tensor | None) -> float:
    """How far a face is turned: by its parts, else as whoever found it says."""
    axes = face_axes(labels, face) if labels is not None else None
    return axes.angle if axes else getattr(face, "angle", 0.0)


def _place(image: int, face: Face, size: tuple[int, int], padding: float, angle: float) -> Place:
    left, top, right, bottom = face.x, face.y, face.x + face.width, face.y + face.height
    if max(face.width, face.height) > max(size):  # nothing is made that is larger than the image
        left, top, right, bottom = clipped((left, top, right, bottom), size)
        if left >= right or top >= bottom:
            raise ValueError(f"the face {said(repr(face))} lies outside of its image, {size[1]}x{size[0]}")
    longer = max(right - left, bottom - top)
    # The padding ends where the image does.
    side = max(longer, min(round(longer * (1 + 2 * padding)), *size))
    return _placed(image, face.index, (left + right) / 2, (top + bottom) / 2, side, angle, size)


def _placed(image: int, face: int, x: float, y: float, side: int, angle: float, size: tuple[int, int]) -> Place:
    """A place around a point; an upright one lies on whole pixels, and inside of the image if it can."""
    if not angle:
        x, y = (
            min(max(round(middle - side / 2), min(0, room - side)), max(0, room - side)) + side / 2
            for middle, room in ((x, size[1]), (y, size[0]))
        )
    return Place(image, face, x, y, side, angle)


def _inside(box: tuple[int, int, int, int], shape: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns of an image that lie in a box."""
    x, y, width, height = box
    return (
        slice(min(max(0, y), shape[0]), max(0, min(y + height, shape[0]))),
        slice(min(max(0, x), shape[1]), max(0, min(x + width, shape[1]))),
    )


# ---------------------------------------------------------------------------------------------- out of the image


def _taken(image: Tensor, place: Place, size: int) -> Tensor:
    """What lies at a place of an image [H, W, C], float32 [size, size, C] in 0..1."""
    window = _cut(image, place.box)
    if not place.angle:
        return pictures.as_float(pictures.resize(window, (size, size)))
    shrink = max(1.0, place.side / size)
    height, width = window.shape[:2]
    window = pictures.as_float(pictures.resize(window, (max(1, round(height / shrink)), max(1, round(width / shrink)))))
    steps = ((torch.arange(size) + 0.5) / size - 0.5) * place.side
    x, y = _turned(steps[None, :], steps[:, None], place.angle)
    left, top, *_ = place.box
    return _sampled(window, (x + place.x - left) / width, (y + place.y - top) / height)


def _cut(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The pixels of a box; beyond the image its border is repeated."""
    x, y, width, height = box
    rows, columns = torch.arange(y, y + height), torch.arange(x, x + width)
    rows, columns = rows.clamp(0, image.shape[0] - 1), columns.clamp(0, image.shape[1] - 1)
    # The rows and columns that are there first: the whole image is not copied.
    part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].cpu()
    if part.shape[:2] == (height, width):
        return part
    return part[rows - rows[0]][:, columns - columns[0]]


# ---------------------------------------------------------------------------------------------- into the image


def _given(crop: Tensor, place: Place, there: tuple[slice, slice]) -> Tensor:
    """A crop [h, h, C] as it lies in these rows and columns of the image, float32 [rows, columns, C] in 0..1."""
    crop = pictures.as_float(crop.cpu())
    left, top, *_ = place.box
    if not place.angle:
        side = round(place.side)
        window = pictures.resize(crop, (side, side))
        return window[there[0].start - top : there[0].stop - top, there[1].start - left : there[1].stop - left]
    if len(crop) > place.side:
        crop = pictures.resize(crop, (math.ceil(place.side), math.ceil(place.side)))
    u, v = _offsets(place, there)
    return _sampled(crop, u + 0.5, v + 0.5)


def _offsets(place: Place, there: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
    """(u, v) of pixels of the image from the middle of a place, in its own directions; its sides are at ±0.5. They
    broadcast to [rows, columns]."""
    down = torch.arange(there[0].start, there[0].stop)[:, None] + 0.5 - place.y
    across = torch.arange(there[1].start, there[1].stop)[None, :] + 0.5 - place.x
    # A row and a column are enough for an upright place.
    u, v = _turned(across, down, -place.angle) if place.angle else (across, down)
    return u / place.side, v / place.side


def _window(place: Place, there: tuple[slice, slice], shape: Sequence[int], feather: float) -> Tensor:
    """How much of a crop is put back, float32 [rows, columns] in 0..1: all, with a soft edge of so many pixels."""
    u, v = _offsets(place, there)
    edges = [0.5 - u, 0.5 + u, 0.5 - v, 0.5 + v]
    if not place.angle:  # a side that lies on the border of the image, or beyond it, has no edge to hide
        left, top, width, height = place.box
        open_sides = (left + width < shape[1], left > 0, top + height < shape[0], top > 0)
        edges = [edge for edge, is_open in zip(edges, open_sides, strict=True) if is_open]
    weight = torch.ones(there[0].stop - there[0].start, there[1].stop - there[1].start)
    for edge in edges:
        ramp = (edge * (place.side / feather)).clamp(0, 1) if feather else (edge > 0).float()
        weight *= ramp * ramp * (3 - 2 * ramp)
    return weight


def _give_way(
    weight: Tensor,
    place: Place,
    there: tuple[slice, slice],
    its_weight: Tensor,
    other: Place,
    elsewhere: tuple[slice, slice],
) -> None:
    """Takes from a crop's weight, in place, what is nearer to the face of another crop that was put there before."""
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(there, elsewhere, strict=True))
    both = rows, columns
    if any(part.start >= part.stop for part in both):
        return
    own, its = (
        tuple(slice(part.start - base.start, part.stop - base.start) for part, base in zip(both, bases, strict=True))
        for bases in (there, elsewhere)
    )
    distance, its_distance = (torch.hypot(*torch.broadcast_tensors(*_offsets(one, both))) for one in (place, other))
    nearer = (0.5 + (its_distance - distance) / _BORDER).clamp(0, 1)
    weight[own] *= 1 - its_weight[its] * (1 - nearer)


def _blend(image: Tensor, crop: Tensor, weight: Tensor) -> None:
    """Mixes a crop into a part of an image [rows, columns, 3], in place; weight 0 and equal pixels change nothing."""
    if image.dtype == torch.uint8:
        mixed = torch.lerp(image.cpu() / 255, crop, weight).mul_(255).round_().to(torch.uint8)
    else:
        mixed = torch.lerp(image.cpu().float(), crop, weight)
    # Compared, so that values beyond 0..1 outside of the mask stay as they are.
    image.copy_(torch.where(weight > 0, mixed.to(image.dtype), image.cpu()))


# ---------------------------------------------------------------------------------------------- turning


def _turned(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Points turned clockwise around the origin."""
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    return x * cosine - y * sine, y * cosine + x * sine


def _sampled(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """An image [h, w, C] at points given as shares of its width and height, [rows, columns, C] in 0..1, bicubic."""
    grid = torch.stack(torch.broadcast_tensors(2 * x - 1, 2 * y - 1), -1)[None].float()
    pixels = image.permute(2, 0, 1)[None]
    values = F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return values[0].permute(1, 2, 0).clamp(0, 1)


def _box_mask(size: tuple[int, int], face: Face) -> Tensor:
    mask = torch.zeros(*size, 1)
    mask[max(0, face.y) : face.y + face.height, max(0, face.x) : face.x + face.width] = 1
    return mask


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    kinds = sorted({f"{width}x{height}" for height, width in sizes})
    return f"{len(sizes)} image{'s' * (len(sizes) != 1)} of {', '.join(kinds[:4])}"
