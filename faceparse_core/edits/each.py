"""What all edits do alike: one image after the other is changed where its mask says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces import Face


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
        result[number] = pictures.as_float(image.cpu())
        change(result[number], mask, number)
        if progress:
            progress(number + 1, len(frames))
    return result


def chosen(faces: Sequence[Face], face: int | str) -> list[Face]:
    """Those of an image's faces that are meant by "all", "largest" or an index. Raises ValueError for anything else."""
    if not (face in ("all", "largest") or (isinstance(face, int) and face >= 0)):
        raise ValueError(f"face must be 'all', 'largest' or an index from 0 on, not {face!r}")
    largest = max(faces, key=lambda one: one.width * one.height, default=None)
    return [one for one in faces if face == "all" or one.index == face or (face == "largest" and one is largest)]
