"""The fine look at a whole picture, in tiles: as large as its small faces need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.windows import Look, padded
from faceparse_core.rendering import Window

See = Callable[[Tensor], Tensor]
"""A network: pixels, uint8 (0..255) or float (0..1) [B, H, W, 3] of sides that are multiples of 32, to logits,
float32 [B, 19, H/4, W/4]."""

# A look at the whole picture has about so many pixels, the fine one at most so many, and none more than the picture.
COARSE_PIXELS, FINE_PIXELS = 512 * 512, 2048 * 1536
PIXELS_AT_ONCE = 640 * 1024  # what goes through the network at a time
_WIDEST_TILE, _OVERLAP = 1088, 64


def fine_scale(size: Sequence[int]) -> float | None:
    """The scale of the fine look at a picture (height, width); None if that is hardly more than the coarse one."""
    pixels = size[0] * size[1]
    scale = min(1.0, math.sqrt(FINE_PIXELS / pixels))
    return scale if scale >= 1.3 * math.sqrt(COARSE_PIXELS / pixels) else None


def fine_look(image: Tensor, scale: float, see: See, colour: Sequence[float]) -> Look:
    """What the network makes of a picture, [H, W, 3], at this scale, its ``fine_scale``. ``colour``: what lies around
    the picture, three in 0..1."""
    height, width = image.shape[:2]
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    small = pictures.resize(image, (high, wide))
    # In tiles that overlap; each begins in the middle of the overlap.
    across, lefts = _tiles(wide, _WIDEST_TILE)
    down, tops = _tiles(high, PIXELS_AT_ONCE // across)
    logits = torch.empty(0)
    for top in tops:
        for left in lefts:
            tile = padded(small[top : top + down, left : left + across], 0, 0, (down, across), colour)
            seen = see(tile[None])[0]
            if not len(logits):
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
