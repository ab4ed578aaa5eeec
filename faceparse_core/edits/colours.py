"""Colours as the eye sees them: OKLab and OKLCh (Ottosson 2020), where a step looks alike wherever it is made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from PIL import ImageColor
from torch import Tensor

from faceparse_core.errors import said

Colour = str | Sequence[float]
"""A colour as people write it: "#7a1f2b", a name of CSS, or red, green and blue in 0..1."""

USUAL_SKIN = "#c99c82"
"""Skin in white light, between light and dark: where skin's colour is another, the light may be, too."""

_TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_FROM_CONES = torch.linalg.inv(_TO_CONES.double()).float()
_TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_LAB = torch.linalg.inv(_TO_LAB.double()).float()


def rgb(colour: Colour) -> tuple[float, float, float]:
    """Red, green and blue in 0..1 of a colour as people write it. ValueError for what is none.

    >>> rgb("#ff0080")
    (1.0, 0.0, 0.5019607843137255)
    """
    if isinstance(colour, str):
        try:
            red, green, blue = ImageColor.getrgb(colour.strip())[:3]
        except ValueError as error:
            raise ValueError(
                f"{said(repr(colour))} is no colour: write it as '#7a1f2b', or by a name such as 'navy'"
            ) from error
        return red / 255, green / 255, blue / 255
    try:
        red, green, blue = (float(value) for value in colour)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a colour is text as '#7a1f2b' or three numbers in 0..1, not {said(repr(colour))}") from error
    if not all(0 <= value <= 1 for value in (red, green, blue)):
        raise ValueError(f"red, green and blue of a colour are in 0..1, not {said(repr(colour))}")
    return red, green, blue


def lab(colour: Colour) -> Tensor:
    """OKLab of a colour as people write it, float32 [3].

    >>> lab("white").round(decimals=3).abs()
    tensor([1., 0., 0.])
    """
    return to_oklab(torch.tensor([rgb(colour)]))[0]


def to_oklab(pixels: Tensor) -> Tensor:
    """L in 0..1, a and b of sRGB pixels, float32 [N, 3] in 0..1: float32 [N, 3], in memory channel by channel, which is
    many times quicker to compute with."""
    return (_TO_LAB @ _cones(pixels.T)).T


def lightness(pixels: Tensor) -> Tensor:
    """L alone, float32 [N]."""
    return _TO_LAB[0] @ _cones(pixels.T)


def lightness_of(channels: Tensor) -> Tensor:
    """L of red, green and blue, float32 [3, ...] in 0..1: float32 [...]."""
    return (_TO_LAB[0] @ _cones(channels.flatten(1))).view(channels.shape[1:])


def to_srgb(pixels: Tensor) -> Tensor:
    """sRGB in 0..1 of OKLab pixels, float32 [N, 3]; what no screen shows is cut off."""
    roots = _FROM_LAB @ pixels.T.contiguous()
    return _looked_up(_from_light(), _FROM_CONES @ (roots * roots).mul_(roots)).T


def _cones(channels: Tensor) -> Tensor:
    """The cube roots of what the eye's three kinds of cones see of red, green and blue [3, N]."""
    seen = _TO_CONES @ _looked_up(_to_light(), channels)
    return seen.clamp_(min=0).log2_().mul_(1 / 3).exp2_()  # a power is three times slower


def _looked_up(table: Tensor, values: Tensor) -> Tensor:
    """Of each of the values in 0..1 what the table has for it."""
    places = (values * (len(table) - 1)).round_().clamp_(0, len(table) - 1).int()
    return table.index_select(0, places.flatten()).view(values.shape)


@cache
def _to_light() -> Tensor:
    """The table of light, of which there is as much as photons; sRGB is not. All of 8 bits have a place of their own,
    and sixteen steps lie between them."""
    value = torch.linspace(0, 1, 255 * 16 + 1, dtype=torch.float64)
    return torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055).pow(2.4)).float()


@cache
def _from_light() -> Tensor:
    """The table of sRGB, in steps of a twentieth of 1/255 at most."""
    light = torch.linspace(0, 1, 1 << 15, dtype=torch.float64)
    return torch.where(light <= 0.0031308, light * 12.92, light.pow(1 / 2.4) * 1.055 - 0.055).float()


def most_chroma(lightness: Tensor, hue: Tensor) -> Tensor:
    """The greatest chroma that sRGB has at these lightnesses in 0..1 and hues in radians, float32 of their shape."""
    lightness, hue = torch.broadcast_tensors(lightness, hue)
    least, most = torch.zeros_like(lightness), torch.full_like(lightness, 0.4)
    direction = torch.stack([hue.cos(), hue.sin()], -1)
    for _ in range(14):
        middle = (least + most) / 2
        tried = torch.cat([lightness[..., None], direction * middle[..., None]], -1)
        linear = (tried @ _FROM_LAB.T).pow(3) @ _FROM_CONES.T
        shown = ((linear >= -1e-4) & (linear <= 1.0001)).all(-1)
        least, most = torch.where(shown, middle, least), torch.where(shown, most, middle)
    return least
