"""Make-up of the eyes: shadow on the lids, a line along the lashes, irises in another colour, brows filled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from faceparse_core import masks
from faceparse_core.edits.colours import USUAL_SKIN, lab, to_oklab, to_srgb
from faceparse_core.edits.eyes import Eye, irises
from faceparse_core.edits.look import Brows, Eyeliner, Eyeshadow, Irises
from faceparse_core.edits.paint import colours_at, median, paint, put, quantiles, ramp
from faceparse_core.edits.rim import FAINT
from faceparse_core.edits.sitter import Sitter

# The line's width at the lashes' outer end, the wing's length, in units, and how far up it points, in degrees.
_LINE, _WING, _RISE = 0.026, 0.13, 28.0
# A line's soft edge, in units and at least in pixels.
_SOFT, _SOFTEST = 0.007, 0.6
# How much of the skin's colour powder covers.
_OPAQUE = 0.55


def shade_lids(sitter: Sitter, seen: Sequence[Eye], shadow: Eyeshadow, strength: float) -> None:
    lid = lab(shadow.colour)
    crease = lab(shadow.crease) if shadow.crease else lid
    for eye in seen:
        box = _about(sitter, eye, (-0.35, 1.7), 0.08)
        if box is None:
            continue
        u, v = sitter.place(*box)
        t = eye.way(u)
        up = (eye.lid(t) - v) / eye.to_brow(t)  # 0 at the lashes, 1 at the brow
        along = ramp(t, -0.22, 0.12) * ramp(t, 1.55, 1.0)
        top = 0.52 + 0.12 * t.clamp(0, 1.2)
        on = ramp(up, -0.06, 0.02) * ramp(up / top, 1.35, 0.55) * along
        # Above the fold and outside the second colour.
        second = ramp(up + 0.45 * (t - 0.45), 0.18, 0.62)
        on = masks.blurred(on[None], max(0.015 * sitter.unit, 0.3))[0]
        own = sitter.shows("skin + nose", box)
        near = colours_at(sitter, box, own & (on > 0.1))
        if len(near):
            colours = torch.lerp(lid[:, None, None], crease[:, None, None], second)
            _powder(sitter, box, on * own * (shadow.strength * strength), colours, median(near))


def _powder(sitter: Sitter, box: tuple[slice, slice], amount: Tensor, colours: Tensor, skin: Tensor) -> None:
    """Lays powder in OKLab colours [3, h, w] on skin of this colour, whose own light and shade is seen through it."""

    def powdered(before: Tensor, inside: Tensor) -> Tensor:
        share, colour = amount.flatten().index_select(0, inside), colours.flatten(1).index_select(1, inside)
        found = to_oklab(before.T).T
        ratio = (colour[0] / skin[0].clamp(min=0.05)).clamp(max=1.6)
        # In warm light powder is warmer, and a little of the skin's own colour comes through.
        tint = (skin[1:] - _OPAQUE * lab(USUAL_SKIN)[1:])[:, None] * ratio.clamp(max=1)
        found[1:] = torch.lerp(found[1:], colour[1:] + tint, share)
        # As much darker as the powder is than the skin, in proportion: dark places do not become black.
        found[0] = torch.lerp(found[0], found[0] * ratio, 0.85 * share)
        return to_srgb(found.T).T

    put(sitter.pixels[box], amount > FAINT, powdered)  # blurred, it is a little more than 0 far and wide


def line_eyes(sitter: Sitter, seen: Sequence[Eye], liner: Eyeliner, strength: float) -> None:
    colour = lab(liner.colour)
    soft = max(_SOFT, _SOFTEST / sitter.unit)
    for eye in seen:
        box = _about(sitter, eye, (-0.2, 1.8), 0.12)
        if box is None:
            continue
        u, v = sitter.place(*box)
        t = eye.way(u)
        width = _LINE * liner.thickness * (0.3 + 0.7 * t.clamp(0, 1))
        above = _across(eye, eye.lid(t) - v, t)
        line = _band(above, -0.5 * width, width, soft) * ramp(t, -0.06, 0.1) * ramp(t, 1.03, 0.99)
        if liner.wing:
            line = torch.maximum(line, _wing(eye, u, v, liner, soft))
        if liner.lower:
            below = _across(eye, v - eye.lower_lid(t), t)
            lower = _band(below, -0.3 * width, 0.5 * width, soft) * ramp(t, 0.15, 0.6) * ramp(t, 1.05, 0.97)
            line = torch.maximum(line, lower * liner.lower)
        amount = line * sitter.shows("skin + nose + eyes", box) * (liner.strength * strength)

        def change(pixels: Tensor) -> Tensor:
            changed = colour.expand(pixels.shape).clone()
            # Lashes that are darker stay so, and a little of the light.
            changed[:, 0] = torch.minimum(pixels[:, 0], colour[0] + 0.12 * (pixels[:, 0] - colour[0]))
            return changed

        paint(sitter, box, amount, change)


def _across(eye: Eye, height: Tensor, t: Tensor) -> Tensor:
    """Heights above a lid as distances from it: less where it is steep."""
    step = 0.02
    slope = (eye.lid(t + step) - eye.lid(t - step)) / (2 * step * eye.width)
    return height / (1 + slope * slope).sqrt()


def _band(places: Tensor, low: Tensor, high: Tensor, soft: float) -> Tensor:
    """1 between two edges, with soft ones; a band narrower than they are is so much fainter."""
    rise = ((places - low) / soft + 0.5).clamp(0, 1)
    fall = ((high - places) / soft + 0.5).clamp(0, 1)
    return torch.minimum(rise, fall)


def _wing(eye: Eye, u: Tensor, v: Tensor, liner: Eyeliner, soft: float) -> Tensor:
    """From the outer corner outwards and up, thinner and thinner."""
    corner = torch.tensor([1.0])
    start, height = eye.outer - 0.06 * eye.width, float(eye.lid(corner - 0.06))
    out, up = u * eye.side - start, height - v
    sine, cosine = math.sin(math.radians(_RISE)), math.cos(math.radians(_RISE))
    along, across = out * cosine + up * sine, up * cosine - out * sine
    length = _WING * liner.wing + 0.06 * eye.width
    left = (1 - along / length).clamp(0, 1)
    width = _LINE * liner.thickness * left
    return _band(across, -0.6 * width, 0.6 * width, soft) * (along > -0.3 * width) * (left > 0)


def colour_irises(sitter: Sitter, seen: Sequence[Eye], wanted: Irises, strength: float) -> None:
    colour = lab(wanted.colour)
    for eye, found in irises(sitter, seen):
        part = sitter.part(eye.label)
        if part is None:
            continue
        box, inside = part
        y = torch.arange(box[0].start, box[0].stop)[:, None] + 0.5 - found.y
        x = torch.arange(box[1].start, box[1].stop) + 0.5 - found.x
        away = (x * x + y * y).sqrt() / found.radius
        soft = max(0.12, 0.7 / found.radius)
        disc = ramp(away, 1 + soft, 1 - soft) * inside
        shades = colours_at(sitter, box, disc > 0.5)
        if not len(shades):
            continue
        dark, middle = np.quantile(shades[:, 0].numpy(), (0.08, 0.6))
        goal = float(middle + 0.5 * (colour[0] - middle))

        def change(pixels: Tensor, dark=dark, middle=middle, goal=goal) -> Tensor:
            light = pixels[:, 0]
            # Neither the pupil nor what is mirrored in the eye is changed.
            own = ramp(light, float(dark), float(dark + 0.4 * (middle - dark) + 0.02))
            own = own * ramp(light, float(middle + 0.3), float(middle + 0.15))
            moved = torch.cat([(light + goal - middle).clamp(0.03, 0.97)[:, None], colour[1:].expand(len(light), 2)], 1)
            return torch.lerp(pixels, moved, own[:, None])

        paint(sitter, box, disc * (wanted.strength * strength), change)


def fill_brows(sitter: Sitter, brows: Brows, strength: float) -> None:
    for name in ("left brow", "right brow"):
        part = sitter.part(name, 0.08)
        if part is None or int(part[1].sum()) < 12:
            continue
        box, inside = part
        soft = masks.blurred(inside[None].float(), max(0.018 * sitter.unit, 0.4))[0]
        shape = ramp(soft, 0.2, 0.85) * sitter.shows("brows + skin", box)
        seen = colours_at(sitter, box, inside)
        hairs = seen[seen[:, 0] <= quantiles(seen[:, 0], 0.3)[0]]
        colour = lab(brows.colour) if brows.colour else median(hairs)

        def change(pixels: Tensor, colour=colour) -> Tensor:
            # Up to the colour of the hairs, which stay as they are; a little of the light between them stays, too.
            changed = pixels.clone()
            changed[:, 0] = torch.minimum(pixels[:, 0], colour[0] + 0.4 * (pixels[:, 0] - colour[0]))
            changed[:, 1:] = torch.lerp(pixels[:, 1:], colour[1:].expand(len(pixels), 2), 0.8)
            return changed

        paint(sitter, box, shape * (brows.strength * strength), change)


def _about(sitter: Sitter, eye: Eye, ways: tuple[float, float], below: float) -> tuple[slice, slice] | None:
    """Rows and columns about an eye and its lid up to the brow."""
    t = torch.linspace(*ways, 9)
    u = (eye.inner + t * eye.width) * eye.side
    top, bottom = eye.lid(t) - eye.to_brow(t), eye.lower_lid(t) + below
    x, y = sitter.axes.to_picture(torch.cat([u, u]).numpy(), torch.cat([top, bottom]).numpy())
    height, width = sitter.labels.shape
    rows = slice(max(0, math.floor(y.min())), min(height, math.ceil(y.max()) + 1))
    columns = slice(max(0, math.floor(x.min())), min(width, math.ceil(x.max()) + 1))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
