"""Other backgrounds: blurred as a lens does it, a colour, another picture, nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.edits.colours import Colour, rgb
from faceparse_core.edits.each import changed
from faceparse_core.edits.rim import FAINT, rim
from faceparse_core.errors import enough_memory, number
from faceparse_core.images import Images
from faceparse_core.masks.reduced import (
    GAP,
    any_along,
    averaged,
    averaged_by_all,
    box_mean,
    enlarged,
    pairs,
    reduced_rows,
    runs,
    tiles,
)
from faceparse_core.rendering import led, spread

# A disc of the lens is so many cells of its grid wide, from the middle; the grid of all is as fine as the least needs.
_CELLS, _FINEST = 5, 2.5
# Blurs between the weakest and the strongest are mixed of these.
_BLURS = 3
# What is nearer to the person than so many radii is blurred less.
_DEPTH = 6.0


@enough_memory("the background cannot be blurred")
def blur_background(
    images: Images,
    person: Tensor,
    *,
    radius: float = 2.0,
    falloff: float = 0.6,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with everything but the person out of focus, float32 [B, H, W, 3] in 0..1 on the CPU.

    Each point of the background becomes a disc, as in a lens, of light and not of its square root: bright points stay
    bright. The person has no part in it (what is blurred is the background alone, divided by how much of it there is),
    so that there is no glow around them. Where ``person`` is 1 the images stay as they are, to the bit; in its soft
    edge the person's own colours are laid over the blurred background.

    ``images``: in any form that ``parse`` takes; ``person``: [H, W] or [B, H, W] in 0..1 of their size, best a refined
    soft mask. ``radius``: of the largest discs, in percent of the longer side. ``falloff`` 0..1: how much sharper it is
    close by the person, where the background is taken to be nearer; at 0 it is all one blur.

    Raises ValueError for images and masks that do not go together and for values out of range.

    >>> picture, person = torch.full((40, 60, 3), 0.5), torch.zeros(40, 60)
    >>> person[10:, 20:40] = 1
    >>> picture[10:, 20:40] = 1
    >>> blurred = blur_background(picture, person)[0]
    >>> blurred[20, 19].round(decimals=3), blurred[20, 20]
    (tensor([0.5000, 0.5000, 0.5000]), tensor([1., 1., 1.]))
    """
    number("radius", radius, 0, 25)
    number("falloff", falloff, 0, 1)
    frames, masks = pairs(images, person)

    def change(image: Tensor, mask: Tensor, _: int) -> None:
        led(partial(_blur, image, mask, radius / 100 * max(mask.shape), falloff))

    return changed(frames, masks, change, progress)


def _blur(image: Tensor, mask: Tensor, size: float, falloff: float) -> None:
    if size >= 0.5 and float(mask.min()) < 0.5:
        factor = max(1, int(size * (1 - 0.8 * falloff) / _FINEST))
        small = _out_of_focus(image, mask, size, falloff, factor)
        _lay(image, mask, partial(_rows_of, small, factor))


@enough_memory("the background cannot be replaced")
def replace_background(
    images: Images,
    person: Tensor,
    new: Colour | Images,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with another background, float32 [B, H, W, 3] in 0..1 on the CPU.

    ``new``: a colour ("#e8e4da", "white"), or a picture, or one for each image, in any form that ``parse`` takes but a
    path of text (which is a colour: give a ``Path``): it is scaled until it fills the image, and its middle is seen.
    ``images`` and ``person`` as for ``blur_background``; a transparent one is ``masks.cut_out``. Raises ValueError,
    too, for what is no colour, and for as many new pictures as do not go with the images.

    >>> person = torch.tensor([[0.0, 1.0]])
    >>> replace_background(torch.zeros(1, 2, 3), person, "white")[0, 0]
    tensor([[1., 1., 1.],
            [0., 0., 0.]])
    """
    frames, masks = pairs(images, person)
    height, width = masks[0].shape
    if _is_colour(new):
        behind = [torch.tensor(rgb(cast(Colour, new))).expand(1, 1, 3)]
    else:
        behind = [_filling(picture, height, width) for picture in pictures.load(cast(Images, new))]
    if len(behind) not in (1, len(frames)):
        raise ValueError(
            f"{len(behind)} new backgrounds do not go with {len(frames)} images: give one, or one for each"
        )

    def change(image: Tensor, mask: Tensor, number: int) -> None:
        _lay(image, mask, partial(_plain_or_part, behind[number % len(behind)]))

    return changed(frames, masks, change, progress)


def _plain_or_part(behind: Tensor, tile: tuple[slice, slice]) -> Tensor:
    part = behind if behind.shape[:2] == (1, 1) else behind[tile]
    return pictures.as_float(part.permute(2, 0, 1).contiguous())


def _is_colour(new: object) -> bool:
    return isinstance(new, str) or (
        isinstance(new, (list, tuple)) and len(new) == 3 and all(isinstance(value, (int, float)) for value in new)
    )


def _filling(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of a picture, scaled so that it fills this size."""
    scale = max(height / image.shape[0], width / image.shape[1])
    tall, broad = min(image.shape[0], round(height / scale)), min(image.shape[1], round(width / scale))
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - broad) // 2
    return pictures.resize(image[top : top + tall, left : left + broad].cpu(), (height, width))


def _lay(image: Tensor, person: Tensor, behind: Callable[[tuple[slice, slice]], Tensor]) -> None:
    """Lays the person of an image [H, W, 3] over what is ``behind`` them in rows and columns of it, [3, h, w]."""
    edge = rim(image, person)

    def lay(tile: tuple[slice, slice]) -> None:
        (rows, columns), alpha = tile, person[tile]
        new = behind(tile).expand(3, *alpha.shape)
        # In the soft edge the image is a mixture; the person's own colours are laid over the new background.
        mixed = []
        for part in runs(any_along(alpha > FAINT, 0), GAP):
            place = rows, slice(columns.start + part.start, columns.start + part.stop)
            pixels = image[place].permute(2, 0, 1).contiguous()
            own, share = edge.parted(pixels, alpha[:, part], place, certain=True)
            mixed.append((place, torch.lerp(new[..., part], own, share)))
        image[tile].copy_(new.permute(1, 2, 0))
        for place, colours in mixed:
            image[place].copy_(colours.permute(1, 2, 0))

    spread(lay, tiles(edge.share < 1 - FAINT, edge.factor, person.shape))


def _rows_of(small: Tensor, factor: int, tile: tuple[slice, slice]) -> Tensor:
    """Rows and columns of what is out of focus, [3, h, w], of its light on the grid."""
    return enlarged(small, factor, *tile)[0].sqrt_()


def _out_of_focus(image: Tensor, person: Tensor, size: float, falloff: float, factor: int) -> Tensor:
    """The blurred light of the background, [1, 3, h, w], reduced by ``factor``; discs of ``size`` pixels at most."""
    height, width = person.shape
    # Of squares of the factor, where there is any background.
    away = torch.zeros(1, 4, -(-height // factor), -(-width // factor))
    there = averaged_by_all(person[..., None], factor)[..., 0] < 1 - FAINT

    def reduce(tile: tuple[slice, slice]) -> None:
        # What is only half background has the person's colours in it.
        weight = (1 - person[tile]).square().square_()
        light = image[tile].permute(2, 0, 1).contiguous().square_().mul_(weight)  # nearly: sRGB is a power of 2.2
        down, across = (reduced_rows(side, factor) for side in tile)
        away[0, :3, down, across] = averaged(light, factor, (1, 2))
        away[0, 3, down, across] = averaged(weight, factor)

    spread(reduce, tiles(there, factor, person.shape))
    # Where there is no background far and wide, what there is of it at all.
    far = box_mean(away, max(1, max(away.shape[2:]) // 4))
    light = away + 1e-3 * far + 1e-6 * far.mean((2, 3), keepdim=True)
    sizes = [size * (1 - 0.8 * falloff * (1 - step / (_BLURS - 1))) for step in range(_BLURS)] if falloff else [size]
    blurred = [torch.empty(0)] * len(sizes)

    def blur(step: int) -> None:
        one = _disc_blur(light, sizes[step] / factor)
        blurred[step] = one[:, :3] / one[:, 3:].clamp(min=1e-9)

    # The widest takes longest.
    spread(blur, reversed(range(len(sizes))))
    if not falloff:
        return blurred[0]
    near = _depth(light[0, 3] < 0.5, size / factor) * (len(sizes) - 1)
    result = blurred[0]
    for step, one in enumerate(blurred[1:]):
        result = torch.lerp(result, one, (near - step).clamp(0, 1))
    return result


def _depth(person: Tensor, size: float) -> Tensor:
    """How far the background of a grid, bool [h, w], is taken to be: 0 beside the person, 1 at ``_DEPTH`` sizes."""
    from scipy.ndimage import distance_transform_edt

    if not bool(person.any()):
        return torch.ones(person.shape)
    away = torch.from_numpy(distance_transform_edt(~person.numpy()).astype(np.float32)).div_(_DEPTH * size).clamp_(0, 1)
    return away * away * (3 - 2 * away)


def _disc_blur(light: Tensor, radius: float) -> Tensor:
    """Each cell of [1, C, h, w] as a disc of this radius in cells, the border repeated."""
    factor = max(1, round(radius / _CELLS))
    coarse = averaged(light, factor, (2, 3))
    radius = radius / factor
    reach = max(1, round(radius + 0.5))
    places = torch.arange(-reach, reach + 1)
    disc = (radius + 0.5 - (places[:, None] ** 2 + places**2).float().sqrt()).clamp(0, 1)
    disc /= disc.sum()
    padded = F.pad(coarse, (reach, reach, reach, reach), mode="replicate")
    height, width = coarse.shape[2:]
    blurred = torch.zeros_like(coarse)
    # A sum of shifted pictures, of each two rows together: convolutions of few channels take longer on most processors.
    for down in range(reach + 1):
        rows = padded.narrow(2, reach - down, height)
        if down:
            rows = rows + padded.narrow(2, reach + down, height)
        for across, weight in enumerate(disc[reach + down].tolist()):
            if weight:
                blurred.add_(rows.narrow(3, across, width), alpha=weight)
    if factor == 1:
        return blurred
    return enlarged(blurred, factor, slice(0, light.shape[2]), slice(0, light.shape[3]))
