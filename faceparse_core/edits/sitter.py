"""Who is made up: one face of a picture, with the part of the picture about it, its labels and its axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from faceparse_core.edits.each import among, changed, chosen, is_nearest, whose
from faceparse_core.faces import Axes, Face, draw, face_axes
from faceparse_core.images import Images, load
from faceparse_core.labels import region_ids
from faceparse_core.masks.reduced import box_of
from faceparse_core.rendering import led

# The part of the picture reaches so far beyond the face's box, in parts of its longer side.
_AROUND = 0.15
# In the labels of a part: nobody's that is made up.
_ELSEWHERE = 255
# Where the eyes lie in a face's box, and how far it is from there to the mouth, if its parts do not tell.
_EYES, _UNIT = 0.42, 0.38


@dataclass(frozen=True)
class Sitter:
    """One face with the part of a picture about it; places are pixels of this part.

    ``pixels``: float32 [h, w, 3] in 0..1, a view of the picture: what is written there is seen. ``labels``: uint8
    [h, w], 255 where another face is nearer. ``axes``: those of the face, see ``faces.face_axes``; ``sure``: whether
    they were told by its parts, and not by its box alone.
    """

    pixels: Tensor
    labels: Tensor
    face: Face
    axes: Axes
    sure: bool

    @property
    def unit(self) -> float:
        """From the eyes to the mouth, in pixels: what sizes of make-up are measured by."""
        return self.axes.unit

    def shows(self, region: str, box: tuple[slice, slice] = (slice(None), slice(None))) -> Tensor:
        """Where the labels of a region are, bool [h, w]; in rows and columns."""
        return among(self.labels[box], region_ids(region))

    def place(self, rows: slice, columns: slice, step: int = 1) -> tuple[Tensor, Tensor]:
        """(u, v) of pixels, or of squares of ``step`` pixels, in the face's axes, float32 [rows, columns] each."""
        x = np.arange(columns.start, columns.stop, step, dtype=np.float32)[None] + 0.5 * step
        y = np.arange(rows.start, rows.stop, step, dtype=np.float32)[:, None] + 0.5 * step
        u, v = self.axes.to_face(x, y)
        return torch.from_numpy(u.astype(np.float32)), torch.from_numpy(v.astype(np.float32))

    def part(self, region: str, spare: float = 0.0) -> tuple[tuple[slice, slice], Tensor] | None:
        """Rows and columns about what the labels show of a region, and so many units more, and where in them it is, as
        ``shows`` says it; None if there is nothing."""
        there, more = self.shows(region), math.ceil(spare * self.unit)
        box = box_of(there)
        if box is None:
            return None
        rows, columns = (
            slice(max(0, side.start - more), min(size, side.stop + more))
            for side, size in zip(box, there.shape, strict=True)
        )
        return (rows, columns), there[rows, columns]

    def drawn(self, names: Sequence[str], step: int) -> Tensor:
        """Regions that are drawn on the face, together, whatever they lie on: float32 in 0..1, soft, at the middles of
        squares of ``step`` pixels."""
        shape = torch.zeros([-(-size // step) for size in self.labels.shape])
        drawing = draw(self.labels, self.face, names) if self.sure else None
        if drawing:
            # The first square whose middle is in the drawing, and where.
            first = [max(0, -((step // 2 - start) // step)) for start in (drawing.y, drawing.x)]
            inner = [
                slice(square * step + step // 2 - start, None, step)
                for square, start in zip(first, (drawing.y, drawing.x), strict=True)
            ]
            for name in names:
                shown = drawing.shown(name, *inner, soft=True)
                where = [slice(start, start + size) for start, size in zip(first, shown.shape, strict=True)]
                there = shape[where[0], where[1]]
                torch.maximum(there, shown[: len(there), : there.shape[1]], out=there)
        return shape


def sitters(image: Tensor, labels: Tensor, faces: Sequence[Face]) -> Iterator[Sitter]:
    """The faces of an image, float32 [H, W, 3], with its labels, uint8 [H, W]."""
    height, width = labels.shape
    for face in faces:
        spare = _AROUND * max(face.width, face.height)
        rows = slice(max(0, int(face.y - spare)), min(height, int(face.y + face.height + spare) + 1))
        columns = slice(max(0, int(face.x - spare)), min(width, int(face.x + face.width + spare) + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        y = torch.arange(rows.start, rows.stop)[:, None] + 0.5
        x = torch.arange(columns.start, columns.stop) + 0.5
        own = labels[rows, columns]
        if len(faces) > 1:
            own = torch.where(is_nearest(face, faces, x, y), own, _ELSEWHERE)
        there = replace(face, x=face.x - columns.start, y=face.y - rows.start)
        axes = face_axes(own, there)
        by_box = Axes(there.x + face.width / 2, there.y + _EYES * face.height, _UNIT * face.height, face.angle)
        yield Sitter(image[rows, columns], own, there, axes or by_box, axes is not None)


def each_sitter(
    images: Images,
    labels: Tensor,
    faces: Sequence[Sequence[Face]],
    face: int | str,
    work: Callable[[Sitter], None],
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """The images, float32 [B, H, W, 3] on the CPU, after ``work`` has written into each of their chosen faces.

    ``face``: "all", "largest", or an index. Raises ValueError for images, labels and faces that do not go together.
    """
    whose(face)
    frames = load(images)
    labels = (labels[None] if labels.ndim == 2 else labels).cpu()
    if len(faces) != len(frames) or len(labels) != len(frames):
        raise ValueError(
            f"there are {len(frames)} images, labels of {len(labels)} and the faces of {len(faces)}: "
            "give labels and a list of faces for each image"
        )
    for frame, one in zip(frames, labels, strict=True):
        if one.dtype != torch.uint8 or frame.shape[:2] != one.shape:
            raise ValueError(
                f"the labels of an image of {frame.shape[1]}x{frame.shape[0]} are uint8 of its size, not "
                f"{str(one.dtype).removeprefix('torch.')} of {one.shape[-1]}x{one.shape[0]}"
            )

    def change(image: Tensor, known: Tensor, number: int) -> None:
        mine = {one.index for one in chosen(faces[number], face)}
        for sitter in sitters(image, known, faces[number]):
            if sitter.face.index in mine:
                led(partial(work, sitter))  # it is many small steps

    return changed(frames, list(labels), change, progress)
