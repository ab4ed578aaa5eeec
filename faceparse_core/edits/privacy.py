"""Privacy: faces hidden so that nobody can tell whose they are, and the rest of the picture as it was.

How coarse it is follows from the size of each face, not from that of the picture: what is left of a face is at most
``CELLS`` cells across, whether as blocks or as a blur. There is nothing in it that could be sharpened back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core.edits.colours import Colour, rgb
from faceparse_core.edits.each import among, changed, chosen, farness, is_nearest, whose
from faceparse_core.errors import enough_memory, number
from faceparse_core.faces import Axes, Face, face_axes
from faceparse_core.images import Images
from faceparse_core.labels import GROUPS, region_ids
from faceparse_core.masks.outline import within
from faceparse_core.masks.reduced import box_of, pairs

WAYS = ("pixelate", "blur", "solid", "average face")
"""How something is hidden: in blocks, blurred, by one colour, by a face that is nobody's in the colour of the skin."""

AREAS = ("face", "eyes", "head", "all but the face")
"""What is hidden of a person: the face from forehead to chin, a band over the eyes, all of the head, or what is around
the face, the rest of the picture."""

CELLS = 8
"""So many cells are left across a face at most: with these the eyes cannot be told."""

# A face seen from the side is narrower than it is: cells are those of a face of this width over its height.
_WIDTH = 0.75
# The hidden area reaches so far beyond the parts that were told, in parts of the face's width.
_SPARE = 0.06
# The band over the eyes: half its width and half its height, in units of the face's axes.
_BAND = 0.95, 0.42
# Where nobody's face has light and shade: u, v, their reach across and down, how much.
_FEATURES = (
    (0.46, -0.02, 0.17, 0.07, -0.45), (-0.46, -0.02, 0.17, 0.07, -0.45),  # eyes
    (0.48, -0.26, 0.24, 0.045, -0.32), (-0.48, -0.26, 0.24, 0.045, -0.32),  # brows
    (0.0, 0.64, 0.20, 0.045, -0.30), (0.0, 0.35, 0.09, 0.30, 0.10),  # nose
    (0.0, 1.0, 0.30, 0.05, -0.38), (0.0, 1.22, 0.22, 0.05, -0.12),  # mouth
    (0.5, 0.45, 0.28, 0.24, 0.08), (-0.5, 0.45, 0.28, 0.24, 0.08),  # cheeks
)  # fmt: skip
_SKIN = region_ids("skin")[0]


def hidden_area(
    labels: Tensor,
    faces: Sequence[Sequence[Face]],
    *,
    area: str = "face",
    face: int | str = "all",
    others: bool = False,
) -> Tensor:
    """What is to be hidden of people, float32 [B, H, W], 0 or 1, for :func:`hide`.

    ``labels``: the label map of images, uint8 [B, H, W]; ``faces``: of each its faces, as a ``Parsing`` has them.
    ``area``: one of ``AREAS``; somewhat more than the parts that were told, and an oval in the face's box in any case,
    since a face that the parser takes for something else is to be hidden, too. ``face``: whose: "all", "largest" or an
    index; ``others``: everybody's but that one's. Of an image without a face, or without that face, nothing is hidden
    (with ``area="all but the face"`` everything is): look at the results before you publish them.

    >>> nobody = torch.zeros(1, 40, 40, dtype=torch.uint8)
    >>> hidden_area(nobody, [[Face(0, 10, 10, 15, 20)]])[0, 20].sum()
    tensor(15.)
    """
    if area not in AREAS:
        raise ValueError(f"unknown area {area!r}: choose one of {', '.join(AREAS)}")
    whose(face)
    if others and face == "all":
        raise ValueError("everybody but all are none: say whose face is to be seen")
    labels = labels[None] if labels.ndim == 2 else labels
    if len(labels) != len(faces):
        raise ValueError(f"there are labels of {len(labels)} images, but faces of {len(faces)}")
    masks = torch.zeros(labels.shape)
    for mask, known, found in zip(masks, labels.cpu(), faces, strict=True):
        for one in chosen(found, face, others):
            _hide_one(mask, known, one, "face" if area == "all but the face" else area, found)
        if area == "all but the face":
            mask.copy_(1 - mask)
    return masks


def _hide_one(mask: Tensor, labels: Tensor, face: Face, area: str, faces: Sequence[Face]) -> None:
    """Adds the area of a face to a mask [H, W]."""
    height, width = labels.shape
    size = _size(face)
    above, beside, below = (0.9, 0.6, 0.35) if area == "head" else (0.25, 0.25, 0.25)
    rows = slice(max(0, int(face.y - above * size)), min(height, int(face.y + face.height + below * size) + 1))
    columns = slice(max(0, int(face.x - beside * size)), min(width, int(face.x + face.width + beside * size) + 1))
    y = torch.arange(rows.start, rows.stop)[:, None] + 0.5
    x = torch.arange(columns.start, columns.stop) + 0.5
    known = labels[rows, columns]
    mine = is_nearest(face, faces, x, y)
    oval = ((x - face.x) / face.width * 2 - 1) ** 2 + ((y - face.y) / face.height * 2 - 1) ** 2 <= 1
    if area == "eyes":
        axes = face_axes(labels, face)
        if axes is None:  # the middle of the upper half, where eyes are on faces of any kind
            band = oval & (y > face.y + 0.15 * face.height) & (y < face.y + 0.65 * face.height)
        else:
            u, v = (torch.from_numpy(place) for place in axes.to_face(x.numpy()[None], y.numpy()))
            band = (u.abs() < _BAND[0]) & (v.abs() < _BAND[1])
        ids = region_ids("eyes + brows + eyeglasses")
        inside = band | _grown(mine & among(known, ids), size)
    else:
        ids = GROUPS[area] if area == "head" else GROUPS["face"]
        inside = oval | _grown(mine & among(known, ids), size)
    mask[rows, columns] = torch.maximum(mask[rows, columns], inside.float())


def _grown(inside: Tensor, size: float) -> Tensor:
    """What is inside, and what is so near to it."""
    return torch.from_numpy(within(inside.numpy()[None], max(1.0, _SPARE * size))[0])


def _size(face: Face) -> float:
    """The width of a face, also of one that is seen from the side or ends with the picture."""
    return max(face.width, _WIDTH * face.height)


@enough_memory("the faces cannot be hidden")
def hide(
    images: Images,
    mask: Tensor,
    faces: Sequence[Sequence[Face]],
    *,
    way: str = "pixelate",
    cells: int = CELLS,
    colour: Colour = "black",
    labels: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with what is in the mask hidden, float32 [B, H, W, 3] in 0..1 on the CPU.

    ``images``: in any form that ``parse`` takes; ``mask``: [H, W] or [B, H, W] in 0..1 of their size, see
    :func:`hidden_area`; in a soft edge it is mixed with the image. ``faces``: of each image its faces: each pixel
    belongs to the nearest; where there is none, the mask's own box counts as one. ``way``: one of ``WAYS``. ``cells``:
    how many are left across a face, 1 to ``CELLS``, for ``pixelate`` and ``blur``, which is those cells with soft
    passages. ``colour``: that of ``solid``. ``average face`` needs the ``labels`` of the images, uint8 [B, H, W]: a
    face that is nobody's, drawn in the median colour of the skin, upright with the face; around it is that colour.

    Where the mask is 0 the images stay as they are, to the bit. Raises ValueError for what does not go together, for
    more cells than hide a face, and for what is no colour.

    >>> face, seen = torch.rand(48, 48, 3), torch.zeros(48, 48)
    >>> seen[8:40, 12:36] = 1
    >>> hidden = hide(face, seen, [[Face(0, 12, 8, 24, 32)]])[0]
    >>> len(hidden[20, 12:36].unique(dim=0)) <= 8, torch.equal(hidden[:8], face[:8])
    (True, True)
    """
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r}: choose one of {', '.join(WAYS)}")
    number("cells", cells, 1, CELLS, whole=True)
    plain = torch.tensor(rgb(colour))
    frames, masks = pairs(images, mask)
    if len(faces) != len(frames):
        raise ValueError(f"there are {len(frames)} images, but the faces of {len(faces)}: give a list for each")
    if way == "average face":
        if labels is None:
            raise ValueError("an average face is drawn by the labels of the image: give them")
        labels = (labels[None] if labels.ndim == 2 else labels).cpu()
        if labels.shape[1:] != masks[0].shape or len(labels) not in (1, len(frames)):
            raise ValueError(f"the labels are {list(labels.shape)}: give those of the {len(frames)} images")

    def change(image: Tensor, mask: Tensor, number: int) -> None:
        box = box_of(mask > 0)
        if not box:
            return
        before = image.clone()
        for face, where, part in _shares(mask, faces[number], box):
            pixels = before[where]
            if way == "solid":
                new = plain.expand(pixels.shape)
            elif way == "average face" and labels is not None:
                new = _nobody(before, labels[number % len(labels)], face, where)
            else:
                new = _coarse(before, where, max(1.0, _size(face) / cells), (face.x, face.y), smooth=way == "blur")
            here = part[..., None]
            image[where] = torch.where(here > 0, torch.lerp(image[where], new, here), image[where])

    return changed(frames, masks, change, progress)


_Where = tuple[slice, slice]


def _shares(mask: Tensor, faces: Sequence[Face], box: _Where) -> list[tuple[Face, _Where, Tensor]]:
    """Of each face the box in which it is nearest, and the mask there, 0 where another one is nearer."""
    rows, columns = box
    if len(faces) <= 1:
        all_of_it = Face(0, columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        return [(faces[0] if faces else all_of_it, box, mask[box])]
    y = torch.arange(rows.start, rows.stop)[:, None] + 0.5
    x = torch.arange(columns.start, columns.stop) + 0.5
    least, owner = torch.full(mask[box].shape, torch.inf), torch.zeros(mask[box].shape, dtype=torch.int16)
    for index, face in enumerate(faces):
        far = farness(face, x, y)
        nearer = far < least
        least, owner = torch.where(nearer, far, least), owner.masked_fill(nearer, index)
    shares = []
    for index, face in enumerate(faces):
        part = mask[box] * (owner == index)
        inner = box_of(part > 0)
        if inner:
            there = tuple(
                slice(side.start + whole.start, side.stop + whole.start) for side, whole in zip(inner, box, strict=True)
            )
            shares.append((face, (there[0], there[1]), part[inner]))
    return shares


def _coarse(image: Tensor, where: _Where, cell: float, start: tuple[float, float], *, smooth: bool) -> Tensor:
    """Rows and columns of an image [H, W, 3] in cells of this size, one of which begins at ``start`` (x, y): their
    means as blocks, or a smooth surface (a cubic B-spline) over them."""
    bounds, cells = [], []
    for side, origin in zip(where, (start[1], start[0]), strict=True):
        first, last = int((side.start - origin) // cell) - 2, int((side.stop - origin) // cell) + 3
        edges = torch.tensor([origin + step * cell for step in range(first, last + 1)]).round().long()
        bounds.append(edges)
        centres = torch.arange(side.start, side.stop) + 0.5
        cells.append((centres - edges[0]) / cell)
    left, right = (int(edge) for edge in bounds[1][[0, -1]].clamp(0, image.shape[1]))
    means = image[:, left:right]
    for axis, (edges, start) in enumerate(zip(bounds, (0, left), strict=True)):
        inner = (edges.clamp(0, image.shape[axis]) - start).tolist()
        filled = [i for i, (begin, end) in enumerate(pairwise(inner)) if begin < end]
        rows = [means.narrow(axis, inner[i], inner[i + 1] - inner[i]).mean(axis) for i in filled]
        # Beyond the picture its border goes on, as the nearest cell that has pixels.
        index = torch.arange(len(inner) - 1).clamp(filled[0], filled[-1]) - filled[0]
        means = torch.stack(rows, axis).index_select(axis, index)
    for axis, (edges, side, places) in enumerate(zip(bounds, where, cells, strict=True)):
        if smooth:
            means = _spline(means, places - 0.5, axis)
        else:
            pixels = torch.arange(side.start, side.stop)
            index = (torch.searchsorted(edges, pixels, right=True) - 1).clamp(0, len(edges) - 2)
            means = means.index_select(axis, index)
    return means


def _spline(means: Tensor, places: Tensor, axis: int) -> Tensor:
    """A uniform cubic B-spline over cells along an axis, at places counted from the middle of the first one."""
    cell = places.floor()
    t = (places - cell).float()
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    shape = [-1 if one == axis else 1 for one in range(3)]
    total: Tensor | float = 0.0
    for step, weight in enumerate(weights):
        index = (cell.long() + step - 1).clamp(0, means.shape[axis] - 1)
        total = total + means.index_select(axis, index) * (weight / 6).view(shape)
    return total  # type: ignore[return-value]


def _nobody(image: Tensor, labels: Tensor, face: Face, where: _Where) -> Tensor:
    """A face that is nobody's in the colour of the skin of a face, in rows and columns of an image."""
    rows, columns = where
    box = slice(max(0, face.y), face.y + face.height), slice(max(0, face.x), face.x + face.width)
    skin = image[box][labels[box] == _SKIN]
    colour = skin.median(0).values if len(skin) else image[box].reshape(-1, 3).median(0).values
    axes = face_axes(labels, face)
    if axes is None:  # eyes are at two fifths of a face's height, and the mouth two fifths below
        axes = Axes(face.x + face.width / 2, face.y + 0.42 * face.height, 0.38 * face.height, 0.0)
    step = max(1, int(axes.unit / 64))
    x = torch.arange(columns.start, columns.stop, step) + step / 2
    y = torch.arange(rows.start, rows.stop, step)[:, None] + step / 2
    u, v = (torch.from_numpy(place).float() for place in axes.to_face(x.numpy()[None], y.numpy()))
    # Rounder towards its edge, as a head is.
    shade = 1.04 - 0.16 * ((u / 0.95) ** 2 + ((v - 0.35) / 1.45) ** 2).clamp(max=1.6)
    for across, down, wide, tall, how in _FEATURES:
        shade += how * torch.exp(-(((u - across) / wide) ** 2) - ((v - down) / tall) ** 2)
    size = rows.stop - rows.start, columns.stop - columns.start
    if step > 1:
        shade = F.interpolate(shade[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return (colour * shade.clamp_(0.2, 1.3)[..., None]).clamp_(0, 1)
