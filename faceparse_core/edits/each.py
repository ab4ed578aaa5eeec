"""What all edits do alike: one image after the other is changed where its mask says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from faceparse_core import images as pictures


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
