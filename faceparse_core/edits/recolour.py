"""Other colours for hair, brows, lips, clothes: with the light that falls on them, and their texture."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from faceparse_core.edits.colours import Colour, lab, lightness, lightness_of, most_chroma, to_srgb
from faceparse_core.edits.each import changed
from faceparse_core.edits.rim import rim
from faceparse_core.errors import enough_memory, number
from faceparse_core.images import Images
from faceparse_core.masks.reduced import box_of, pairs, tiles
from faceparse_core.rendering import spread

# New colours are worked out once for so many lightnesses, their chroma for fewer, at so many steps of the gradient.
_SHADES, _LEVELS, _STEPS = 4096, 512, 33
# What is dyed black is not without light, nor is what is bleached nothing but light.
_DARKEST, _LIGHTEST = 0.16, 0.90
# How contrast grows with lightness, by the power of its ratio: between moving (0) and multiplying (1); and at most.
# Shadows are more than moved: black that is bleached stays dark in its depths.
_FLATTEST, _DARKER, _LIGHTER = 0.55, (0.75, 2.6), (0.5, 1.9)
# Colour fades towards black and white by this power of the way there.
_FADING = 0.7
# Below about this lightness there is no texture.
_NOISE = 0.13
# Lightness is told from at most about so many pixels, and the tips' colour begins and is complete so far down.
_SAMPLE = 1 << 15
_FROM, _TO = 0.35, 0.8
# So many pixels around the mask are looked at.
_AROUND = 32


@enough_memory("the picture cannot be recoloured")
def recolour(
    images: Images,
    mask: Tensor,
    colour: Colour,
    *,
    tips: Colour | None = None,
    strength: float = 1.0,
    light: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with what is in the mask in another colour, float32 [B, H, W, 3] in 0..1 on the CPU.

    The median lightness goes to that of the colour and what is lighter and darker with it, in steps that fit the new
    lightness: dark hair becomes light and light hair dark, and shadows, gloss and strands stay. Hue is that of the
    colour everywhere; chroma fades towards white and black. Greys and pastels are colours like any other. Of a soft
    edge the share that is in the mask is changed, the background that shines through is not. Where the mask is 0 the
    images stay as they are, to the bit.

    ``images``: in any form that ``parse`` takes; ``mask``: [H, W] or [B, H, W] in 0..1 of their size, best a refined
    soft one; a single image, or a single mask, goes with each of the others. ``colour``: "#7a1f2b", a name, or red,
    green and blue in 0..1; ``tips``: a second one, into which the first runs down the mask's height, as in dip-dyed
    hair. ``strength`` 0..1 mixes the result with the image. ``light`` 0..1: how much of the way to the colour's
    lightness is gone; at 0 light and dark stay as they are.

    Raises ValueError for images and masks that do not go together, for what is no colour, and values out of range.

    >>> picture = torch.full((4, 6, 3), 0.2)
    >>> picture[:, 3:] = 0.8
    >>> mask = torch.zeros(4, 6)
    >>> mask[:, :3] = 1
    >>> recolour(picture, mask, "#b87333")[0, 0, [0, 5]].mul(255).round()
    tensor([[184., 115.,  51.],
            [204., 204., 204.]])
    """
    number("strength", strength, 0, 1)
    number("light", light, 0, 1)
    colours = lab(colour), lab(colour if tips is None else tips)
    frames, masks = pairs(images, mask)

    def change(image: Tensor, mask: Tensor, _: int) -> None:
        box = box_of(mask > 0)
        if box and strength:
            # With something of what is around.
            box = tuple(slice(max(0, side.start - _AROUND), side.stop + _AROUND) for side in box)
            dye(image[box], mask[box], colours, tones(image[box], mask[box]), strength, light)

    return changed(frames, masks, change, progress)


def dye(
    image: Tensor,
    mask: Tensor,
    colours: tuple[Tensor, Tensor],
    seen: tuple[float, float],
    strength: float = 1.0,
    light: float = 1.0,
) -> None:
    """Changes an image [H, W, 3] where its mask [H, W] is, in the two colours (OKLab, the tips' second), by the
    ``tones`` that are seen there."""
    one = torch.equal(*colours)
    dyed = _dyed(*colours, *seen, light, 1 if one else _STEPS)
    gradient = None if one else _gradient(mask) * _SHADES
    edge = rim(image, mask)

    def change(tile: tuple[slice, slice]) -> None:
        alpha, there = mask[tile], image[tile]
        if not bool((alpha > 0).any()):
            return
        # Channel by channel it is many times quicker.
        original = there.permute(2, 0, 1).contiguous()
        own, share = original, alpha
        # In the rim the inside alone is changed, and what shines through from behind is not.
        if edge.crosses(tile) or bool((alpha < 1).any()):
            own, share = edge.parted(original, alpha, tile)
        shade = lightness_of(own).mul_(_SHADES - 1).round_().clamp_(0, _SHADES - 1).int()
        if gradient is not None:
            shade += gradient[tile[0], None]
        share = share * strength
        for before, inside, new in zip(original, own, dyed, strict=True):
            changed = new.index_select(0, shade.flatten()).view(shade.shape)
            before += changed.sub_(inside).mul_(share)
        there.copy_(original.clamp_(0, 1).permute(1, 2, 0))

    spread(change, tiles(edge.share > 0, edge.factor, mask.shape))


def tones(image: Tensor, mask: Tensor) -> tuple[float, float]:
    """The median lightness of what is in the mask, and that of its lighter end."""
    step = max(1, math.isqrt(mask.numel() // _SAMPLE))
    sample, weight = image[::step, ::step].reshape(-1, 3), mask[::step, ::step].flatten()
    inside = weight >= min(0.9, float(weight.max()))
    shades = _flattened(lightness(sample[inside] if inside.any() else image[mask > 0]))
    middle, bright = torch.quantile(shades, torch.tensor([0.5, 0.95])).tolist()
    return middle, bright


def _flattened(light: Tensor) -> Tensor:
    """Lightness, near black, where it is noise and blocks of JPEG, flattened."""
    return light.square().add_(_NOISE**2).sqrt_()


def _gradient(mask: Tensor) -> Tensor:
    """How far each row is on the way from the first colour to that of the tips, as a step of the table, int64 [H]."""
    amount = mask.sum(1).cumsum(0)
    share = amount / amount[-1]
    top, bottom = (int((share < end).sum()) for end in (0.02, 0.98))
    way = (torch.arange(len(mask)) - top) / max(bottom - top, 1)
    way = ((way - _FROM) / (_TO - _FROM)).clamp(0, 1)
    return (way * way * (3 - 2 * way) * (_STEPS - 1)).round().int()


def _dyed(first: Tensor, last: Tensor, middle: float, bright: float, light: float, steps: int) -> Tensor:
    """The new sRGB of what is of each of ``_SHADES`` lightnesses, at each step of the gradient: [3, steps * _SHADES].

    The new colour depends on the lightness alone. The median goes to that of the colour, and contrast grows with it.
    """
    mixed = first + (last - first) * torch.linspace(0, 1, steps)[:, None]
    wanted = mixed[:, 0].clamp(_DARKEST, _LIGHTEST)
    ratio = wanted / max(middle, 0.05)
    darker, lighter = (ratio.pow(power).clamp(_FLATTEST, most) for power, most in (_DARKER, _LIGHTER))
    # Light colours leave room for what is lighter than the middle.
    wanted = torch.minimum(wanted, (0.99 - 0.5 * lighter * (bright - middle)).clamp(min=0.5))
    goal = (middle + (wanted - middle) * light)[:, None]
    darker, lighter = (1 + (growth[:, None] - 1) * light for growth in (darker, lighter))

    away = (_flattened(torch.linspace(0, 1, _SHADES)) - middle).expand(steps, -1)
    away = away * torch.where(away > 0, lighter, darker)
    # Neither above white nor below black: what comes near is bent.
    room = torch.where(away > 0, 0.99 - goal, goal - 0.01).clamp_(min=1e-3)
    shade = away / (1 + (away / room) ** 2).sqrt_() + goal

    levels = torch.linspace(0, 1, _LEVELS)[None]
    hue, chroma = torch.atan2(mixed[:, 2], mixed[:, 1])[:, None], mixed[:, 1:].norm(dim=1, keepdim=True)
    own = mixed[:, :1].clamp(1e-3, 0.999)
    fading = torch.minimum(levels / own, (1 - levels) / (1 - own)).clamp(0, 1).pow(_FADING)
    chroma = torch.minimum(chroma * fading, most_chroma(levels, hue))
    chroma = chroma.gather(1, (shade * (_LEVELS - 1)).round().long().clamp_(0, _LEVELS - 1))
    return to_srgb(torch.stack([shade, hue.cos() * chroma, hue.sin() * chroma], 2).view(-1, 3)).T.contiguous()
