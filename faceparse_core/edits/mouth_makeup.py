"""Make-up of the mouth: lipstick with a finish, a line around the lips, teeth whitened."""

from __future__ import annotations

import torch
from torch import Tensor

from faceparse_core import masks
from faceparse_core.edits.colours import lab
from faceparse_core.edits.look import LipLiner, Lipstick
from faceparse_core.edits.paint import colours_at, median, paint, quantiles, ramp
from faceparse_core.edits.sitter import Sitter

# How far the edge of the lips may move to where the colours change, in units.
_EDGE = 0.035
# The line around the lips is so wide, in units.
_LINE = 0.045
# Lightness of lips goes so far to that of a darker and of a lighter colour; so much of their own differences stays.
_DARKER, _LIGHTER, _OWN = 0.8, 0.45, 0.25
# How what is lighter than the lips' middle shines: matte, as it is, raised; and with gloss their lightest places more.
_SHINE = {"matte": 0.45, "satin": 1.0, "gloss": 1.3}
_GLOSS, _ROOM = 0.13, 0.25
# The inner mouth must have so many pixels for teeth.
_FEWEST = 8


def paint_lips(sitter: Sitter, lipstick: Lipstick | None, liner: LipLiner | None, strength: float) -> None:
    """Lipstick, and over it the line around the lips."""
    found = _lips(sitter)
    if found is None:
        return
    box, lips = found
    if lipstick:
        _colour(sitter, box, lips, lipstick, strength)
    if liner:
        _line(sitter, box, lips, liner, strength)


def _colour(sitter: Sitter, box: tuple[slice, slice], lips: Tensor, lipstick: Lipstick, strength: float) -> None:
    sample = colours_at(sitter, box, lips > 0.5)
    if not len(sample):
        return
    colour, middle = lab(lipstick.colour), median(sample)
    goal = middle[0] + (_LIGHTER if colour[0] > middle[0] else _DARKER) * (colour[0] - middle[0])
    bright, brightest = quantiles(sample[:, 0], 0.8, 0.98)
    shine = _SHINE[lipstick.finish]

    def change(pixels: Tensor) -> Tensor:
        away = pixels[:, 0] - middle[0]
        # Of lips that lie half in the light, these do not become white.
        away = torch.where(away > 0, away * shine / (1 + (away / _ROOM) ** 2).sqrt(), away)
        light = goal + away
        if lipstick.finish == "gloss":
            light = light + _GLOSS * ((pixels[:, 0] - bright) / (brightest - bright + 0.02)).clamp(0, 1.2) ** 2
        # Where it shines, it is the light that is seen, and not the colour.
        mirrored = ((light - goal - 0.08) / 0.3).clamp(0, 0.7)
        chroma = (colour[1:] + _OWN * (pixels[:, 1:] - middle[1:])) * (1 - mirrored[:, None])
        return torch.cat([light.clamp(0.02, 0.99)[:, None], chroma], 1)

    paint(sitter, box, lips * (lipstick.strength * strength), change)


def _line(sitter: Sitter, box: tuple[slice, slice], lips: Tensor, liner: LipLiner, strength: float) -> None:
    # The rim of lips and mouth together: there is no line where the lips part.
    whole = torch.maximum(lips, sitter.shows("inner mouth", box).float())
    width = max(_LINE * sitter.unit, 0.5)
    inner = masks.blurred(whole[None], width / 2)[0]
    rim = lips * ramp(inner, 0.97, 0.72)
    colour = lab(liner.colour)

    def change(pixels: Tensor) -> Tensor:
        changed = pixels.clone()
        changed[:, 0] += 0.7 * (colour[0] - pixels[:, 0])
        changed[:, 1:] = colour[1:]
        return changed

    paint(sitter, box, rim * (liner.strength * strength), change)


def whiten_teeth(sitter: Sitter, strength: float) -> None:
    """Less yellow and lighter: what in the inner mouth is neither red, as tongue and gums are, nor dark."""
    part = sitter.part("inner mouth")
    if part is None or int(part[1].sum()) < _FEWEST:
        return
    box, inside = part
    seen = colours_at(sitter, box, inside)
    lips = sitter.part("lips")
    redness = float(colours_at(sitter, *lips)[:, 1].median()) if lips else 0.09
    (light,) = quantiles(seen[:, 0], 0.9)
    soft = masks.blurred(inside[None].float(), max(0.012 * sitter.unit, 0.3))[0]
    amount = inside * ramp(soft, 0.4, 0.95)

    def change(pixels: Tensor) -> Tensor:
        red = pixels[:, 1] + 0.3 * pixels[:, 2].clamp(min=0)
        tooth = ramp(red, max(0.75 * redness, 0.055), max(0.45 * redness, 0.03)) * ramp(
            pixels[:, 0], max(0.62 * light, 0.35), max(0.8 * light, 0.45)
        )
        changed = pixels.clone()
        changed[:, 0] += tooth * 0.09 * (1 - ramp(pixels[:, 0], 0.85, 0.97))
        changed[:, 1] *= 1 - 0.6 * tooth
        changed[:, 2] *= 1 - 0.75 * tooth
        return changed

    paint(sitter, box, amount * strength, change)


def _lips(sitter: Sitter) -> tuple[tuple[slice, slice], Tensor] | None:
    """Where the lips are, and their mask there with a soft edge where the picture's is, [h, w]."""
    part = sitter.part("lips", 4 * _EDGE)
    if part is None:
        return None
    box, inside = part
    soft = masks.blurred(inside[None].float(), max(0.01 * sitter.unit, 0.4))
    reach = max(1.0, _EDGE * sitter.unit)
    refined = masks.refine(sitter.pixels[box], soft, radius=reach, unit="pixels")[0]
    # On nothing but lips and skin, and no farther out than the edge may move.
    near = masks.blurred(inside[None].float(), reach)[0]
    return box, refined * ramp(near, 0.02, 0.3) * sitter.shows("lips + skin + nose", box)
