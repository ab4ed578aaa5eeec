"""Pictures by way of smaller ones: pairing them with masks, averaging, enlarging, filtering by windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.images import Images
from faceparse_core.masks.tools import as_mask


def pairs(images: Images, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Images [H, W, 3] and masks [H, W], as many of one as of the other, all of one size, on the CPU."""
    masks, frames = list(as_mask(mask).cpu()), pictures.load(images)
    if any(frame.shape[:2] != masks[0].shape for frame in frames) or len({len(masks), len(frames)} - {1}) > 1:
        height, width = frames[0].shape[:2]
        raise ValueError(
            f"{len(frames)} image{'s' * (len(frames) > 1)} of {width}x{height} and {len(masks)} mask"
            f"{'s' * (len(masks) > 1)} of {masks[0].shape[1]}x{masks[0].shape[0]} do not go together: "
            "they must be of one size, and as many of the one as of the other, or a single one"
        )
    count = max(len(masks), len(frames))
    return frames * (count // len(frames)), masks * (count // len(masks))


def size_of(mask: Tensor) -> float:
    """The root of the area of the mask's box, in pixels; of the whole image's if the mask is empty."""
    box = box_of(mask >= max(mask.max().item() / 2, 1e-6))
    return math.sqrt(math.prod(side.stop - side.start for side in box) if box else mask.numel())


def box_of(inside: Tensor) -> tuple[slice, slice] | None:
    """The rows and columns of the box about a set of pixels; None if there are none."""
    sides = [places.nonzero() for places in (inside.any(1), inside.any(0))]
    if not len(sides[0]):
        return None
    rows, columns = (slice(int(side[0].item()), int(side[-1].item()) + 1) for side in sides)
    return rows, columns


def colours_of(image: Tensor, rows: slice) -> Tensor:
    """Rows of an image [H, W, 3] as [1, 3, rows, W] in 0..1."""
    return pictures.as_float(image[rows].cpu()).permute(2, 0, 1)[None]


def averaged(values: Tensor, factor: int) -> Tensor:
    """Float values [H, W, C] averaged over squares of ``factor``, at the end over what is there of them."""
    for axis in (0, 1):
        whole = values.shape[axis] // factor * factor
        parts = [values.narrow(axis, 0, whole).unflatten(axis, (-1, factor)).mean(axis + 1)]
        if rest := values.shape[axis] - whole:
            parts.append(values.narrow(axis, whole, rest).mean(axis, keepdim=True))
        values = torch.cat(parts, axis)
    return values


def enlarged(small: Tensor, factor: int, rows: slice, columns: slice) -> Tensor:
    """A part of an image from one [1, C, h, w] averaged over squares of ``factor``: bilinear, the centres stay."""
    if factor == 1:
        return small[:, :, rows, columns]
    for axis, part in ((2, rows), (3, columns)):
        place = ((torch.arange(part.start, part.stop) + 0.5) / factor - 0.5).clamp(0, small.shape[axis] - 1)
        first = place.long()
        second = (first + 1).clamp_max(small.shape[axis] - 1)
        share = (place - first).view([-1] + [1] * (3 - axis))
        small = torch.lerp(small.index_select(axis, first), small.index_select(axis, second), share)
    return small


def box_mean(values: Tensor, radius: int) -> Tensor:
    """The mean over a square of ``radius`` pixels to each side, of what is inside of the image."""
    for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        values = F.avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
    return values


def linear_model(guide: Tensor, values: Tensor, radius: int, epsilon: float) -> Tensor:
    """Of each window the linear function of the colours that comes nearest to the values: [1, 4, h, w], slope and
    offset."""
    mean, level = box_mean(guide, radius), box_mean(values, radius)
    together = box_mean(guide * values, radius) - mean * level
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = box_mean(torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], 1), radius)
    rr, rg, rb, gg, gb, bb = (
        products[:, k] - mean[:, i] * mean[:, j] + (epsilon if i == j else 0) for k, (i, j) in enumerate(pairs)
    )
    # The inverse of the symmetric 3x3 matrix, by cofactors.
    r, g, b = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    g2, b2, b3 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * r + rg * g + rb * b)
    x, y, z = together[:, 0], together[:, 1], together[:, 2]
    slope = torch.stack([r * x + g * y + b * z, g * x + g2 * y + b2 * z, b * x + b2 * y + b3 * z], 1) * scale[:, None]
    return torch.cat([slope, level - (slope * mean).sum(1, keepdim=True)], 1)
