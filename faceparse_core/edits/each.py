"""What all edits do alike: one image after the other is changed where its mask says so; whose face is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.errors import said
from faceparse_core.faces import Face
from faceparse_core.masks.reduced import parts_of
from faceparse_core.rendering import spread

_Places = TypeVar("_Places", Tensor, np.ndarray)


def changed(
    frames: Sequence[Tensor],
    masks: Sequence[Tensor],
    change: Callable[[Tensor, Tensor, int], None],
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """The frames, [H, W, 3] each, as float32 [B, H, W, 3] in 0..1 on the CPU, after ``change(image, mask, number)`` has
    written into each of them. ``progress(done, total)`` is called after every one."""
    result = pictures.empty(len(frames), *masks[0].shape, 3)
    for number, (image, mask) in enumerate(zip(frames, masks, strict=True)):
        _fill(result[number], image.cpu())
        change(result[number], mask, number)
        if progress:
            progress(number + 1, len(frames))
    return result


def _fill(result: Tensor, given: Tensor) -> None:
    """Writes an image [H, W, 3], as it is given, as float32 in 0..1, band by band, which stay in the cache."""

    def write(rows: slice) -> None:
        result[rows].copy_(given[rows])
        if given.dtype == torch.uint8:
            result[rows].div_(255)

    spread(write, parts_of(*given.shape[:2]))


def among(labels: _Places, ids: Sequence[int]) -> _Places:
    """Which labels, uint8, are these: bool of their shape, on the CPU. By numpy, which compares many bytes at once:
    torch takes twenty times as long, and ``torch.isin`` longer still."""
    if isinstance(labels, Tensor):
        return torch.from_numpy(among(labels.cpu().numpy(), ids))
    first, *others = ids
    found = labels == first
    for label in others:
        found |= labels == label
    return found


def whose(face: int | str) -> None:
    """ValueError unless this says whose face is meant."""
    if not (face in ("all", "largest") or (isinstance(face, int) and not isinstance(face, bool) and face >= 0)):
        raise ValueError(f"face must be 'all', 'largest' or an index from 0 on, not {said(repr(face))}")


def chosen(faces: Sequence[Face], face: int | str, others: bool = False) -> list[Face]:
    """The faces that are meant: "all", the "largest" or that of an index; or the ``others``."""
    largest = max(faces, key=lambda one: one.width * one.height, default=None)
    named = [one for one in faces if face == "all" or one.index == face or (face == "largest" and one is largest)]
    return [one for one in faces if one not in named] if others else named


def is_nearest(face: Face, faces: Sequence[Face], x: _Places, y: _Places) -> _Places:
    """Which points, tensors or arrays, are no farther from this face than from any other of the faces: bool."""
    own = farness(face, x, y)
    mine = own >= 0  # all of them
    for other in faces:
        if other is not face and other.box != face.box:
            mine &= own <= farness(other, x, y)
    return mine


def farness(face: Face, x: _Places, y: _Places) -> _Places:
    """How far points, tensors or arrays, are from the middle of a face, in parts of its size, squared."""
    size = max(face.width, face.height)
    return ((x - face.x - face.width / 2) / size) ** 2 + ((y - face.y - face.height / 2) / size) ** 2
