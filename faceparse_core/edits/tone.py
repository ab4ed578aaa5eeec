"""The tone of skin in a picture: its colour in CIELAB, the individual typology angle, and how sure that is.

It is a figure of the picture, of its light and its camera as much as of the person: no medical measure, and none by
which anybody could be told.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from faceparse_core.edits.each import among
from faceparse_core.labels import region_ids

TONES = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
    (-181.0, "dark"),
)
"""Classes of the individual typology angle (Chardon et al. 1991): those above so many degrees, from the lightest."""

# From linear sRGB to XYZ, in units of its white (D65).
_TO_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_TO_XYZ /= _TO_XYZ.sum(1, keepdim=True)
_LUMINANCE = _TO_XYZ[1]
# Of the skin's lightness the parts below and above these quantiles are shadow and highlight.
_SHADOW, _HIGHLIGHT = 0.25, 0.85
# Pixels of skin in this range tell its colour.
_DARK, _CLIPPED = 0.02, 0.98
# So many pixels are looked at at most, and fewer than this tell nothing.
_SAMPLE, _FEWEST = 1 << 16, 30
# So many pixels of skin, and cheeks that differ by so many degrees: sure, and not sure at all.
_ENOUGH, _APART = 2000, 60.0
_SKIN_LIKE = region_ids("face + ears + neck")


def to_cielab(pixels: Tensor) -> Tensor:
    """L (0..100), a and b (D65) of sRGB pixels, float [N, 3] in 0..1: [N, 3].

    >>> to_cielab(torch.tensor([[1.0, 1.0, 1.0]])).round(decimals=2).abs()
    tensor([[100.,   0.,   0.]])
    """
    return _lab_of_light(_linear(pixels))


def typology_angle(lab: Tensor) -> float:
    """The individual typology angle in degrees of a colour in CIELAB, [3]: the larger, the lighter the skin.

    >>> round(typology_angle(torch.tensor([65.0, 12.0, 15.0])), 1)
    45.0
    """
    return math.degrees(math.atan2(float(lab[0]) - 50, float(lab[2])))


def tone_class(angle: float) -> str:
    """The class of a typology angle in degrees.

    >>> tone_class(45.0)
    'light'
    """
    return next(name for least, name in TONES if angle > least)


def light_gains(image: Tensor, labels: Tensor) -> Tensor:
    """By what red, green and blue of linear light are multiplied so that the surroundings are grey on average: [3].

    ``image``: float [H, W, 3] in 0..1; ``labels``: uint8 [H, W]. Skin is left out, unless there is little else: by a
    portrait alone grey would be the colour of skin.
    """
    step = max(1, math.isqrt(labels.numel() // _SAMPLE))
    pixels, known = image[::step, ::step].reshape(-1, 3), labels[::step, ::step].reshape(-1)
    # Clipped pixels count: a cast makes other pixels clip, and who leaves them out compares different surroundings.
    usable = pixels.amin(1) > _DARK
    around = usable & ~among(known, _SKIN_LIKE)
    chosen = around if around.sum() > 0.05 * len(known) else usable
    if chosen.sum() < _FEWEST:
        return torch.ones(3)
    # The mean of logarithms: a cast moves it by just as much, and bright pixels weigh no more than others.
    mean = _linear(pixels[chosen]).log().mean(0).exp()
    return (mean @ _LUMINANCE) / mean


def tone_of(pixels: Tensor, gains: Tensor | None = None) -> dict | None:
    """The colour of skin without its shadows and highlights: ``lab`` (L, a, b), ``ita`` in degrees, ``class``; None for
    too few pixels. ``pixels``: float [N, 3] in 0..1; ``gains``: see :func:`light_gains`."""
    if len(pixels) < _FEWEST:
        return None
    pixels = pixels[:: max(1, len(pixels) // _SAMPLE)]
    light = _linear(pixels)
    lab = _lab_of_light(light * gains if gains is not None else light)
    low, high = torch.quantile(lab[:, 0], torch.tensor([_SHADOW, _HIGHLIGHT]))
    lab = lab[(lab[:, 0] >= low) & (lab[:, 0] <= high)].median(0).values
    angle = typology_angle(lab)
    return {"lab": [round(float(value), 1) for value in lab], "ita": round(angle, 1), "class": tone_class(angle)}


def skin_tone(skin: Tensor, cheeks: dict[str, Tensor], gains: Tensor | None = None, cast: float = 0.0) -> dict | None:
    """The tone of a face: that of its ``skin``, float [N, 3] in 0..1, of its ``cheeks`` by name, how ``sure`` it is.

    ``sure`` 0..1 falls with few pixels, with pixels that are clipped or black, with cheeks that differ (light from the
    side), and with a colour ``cast`` of the light that is not balanced.
    """
    tone = tone_of(skin, gains)
    if tone is None:
        return None
    sides = {name: tone_of(pixels, gains) for name, pixels in cheeks.items()}
    angles = [one["ita"] for one in sides.values() if one]
    apart = abs(angles[0] - angles[1]) if len(angles) == 2 else _APART / 4
    useful = ((skin.amax(1) < _CLIPPED) & (skin.amin(1) > _DARK)).float().mean().item()
    even = 1 - min(1.0, apart / _APART)
    sure = min(1.0, len(skin) / _ENOUGH) * useful * even * (1 - min(1.0, cast))
    return {**tone, **sides, "balanced": gains is not None, "sure": round(sure, 2)}


def _linear(pixels: Tensor) -> Tensor:
    return torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)


def _lab_of_light(light: Tensor) -> Tensor:
    xyz = light @ _TO_XYZ.to(light.dtype).T
    root = torch.where(xyz > 216 / 24389, xyz.clamp(min=0) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
