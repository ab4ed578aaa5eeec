"""The eyes of somebody who is made up: their lids as lines in the face's axes, and where the irises are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceparse_core.edits.colours import lightness
from faceparse_core.edits.sitter import Sitter
from faceparse_core.masks.reduced import averaged

# Of each eye: its label, that of its brow, and the side of the face on which it is.
_EYES = (("left eye", "left brow", 1), ("right eye", "right brow", -1))
# An eye of fewer pixels is only a spot, and nothing is drawn on it.
_FEWEST = 12
# A lid is told by the pixels farthest up in so many stretches from corner to corner.
_STRETCHES = 12
# From the lid to the brow where no brow is seen, in units, and at least so much.
_TO_BROW, _LEAST = 0.26, 0.08
# The radius of an iris is between these, in parts of the eye's width (11.7 mm of 30), tried in these steps on an eye of
# so many cells.
_IRIS, _CELLS = (0.17, 0.195, 0.22), 48
# How far eyes look aside, and one otherwise than the other; how far up or down: standard deviations in the eye's width.
_STRAIGHT, _ALIKE, _HIGH = 0.16, 0.07, 0.09


@dataclass(frozen=True)
class Eye:
    """An eye in the axes of its face, u counted outwards from the middle line: ``inner`` and ``outer`` corner, the lids
    and the lower edge of the brow as polynomials of the way t from the inner (0) to the outer corner (1)."""

    side: int
    label: str
    inner: float
    outer: float
    upper: Tensor
    lower: Tensor
    brow: Tensor

    @property
    def width(self) -> float:
        return self.outer - self.inner

    def way(self, u: Tensor) -> Tensor:
        """t of places u in the face's axes."""
        return (u * self.side - self.inner) / self.width

    def lid(self, t: Tensor) -> Tensor:
        """v of the upper lid's edge; beyond the corners it goes on straight."""
        return _along(self.upper, t)

    def lower_lid(self, t: Tensor) -> Tensor:
        return _along(self.lower, t)

    def to_brow(self, t: Tensor) -> Tensor:
        """How far it is from the lid up to the brow, in units."""
        return (self.lid(t) - _along(self.brow, t)).clamp(min=_LEAST)


def _along(line: Tensor, t: Tensor) -> Tensor:
    inside = t.clamp(0, 1)
    value, slope = torch.zeros_like(t), torch.zeros_like(t)
    for coefficient in line:
        slope = slope * inside + value
        value = value * inside + coefficient
    return value + slope.clamp(-0.3, 0.3) * (t - inside)


def eyes(sitter: Sitter) -> Iterator[Eye]:
    """The eyes that are seen; none where the face has no axes of its own."""
    for name, brow_name, side in _EYES:
        u, v = _places(sitter, name)
        if not sitter.sure or len(u) < _FEWEST:
            continue
        u = u * side
        inner, outer = np.quantile(u, (0.01, 0.99))
        if outer - inner < 1e-3:
            continue
        half = 0.5 / sitter.unit  # from the middle of a pixel to its edge
        t = (u - inner) / (outer - inner)
        upper, lower = _line(t, v, 0.04, 3) - _shift(half), _line(t, v, 0.96, 3) + _shift(half)
        brow = upper - _shift(_TO_BROW)
        u, v = _places(sitter, brow_name)
        if len(u) >= _FEWEST:
            t = (u * side - inner) / (outer - inner)
            near = (t > -0.3) & (t < 1.4)
            if near.sum() >= _FEWEST:
                brow = np.concatenate([[0.0], _line(t[near], v[near], 0.93, 2)])
        lines = (torch.from_numpy(line.astype(np.float32)) for line in (upper, lower, brow))
        yield Eye(side, name, float(inner), float(outer), *lines)


def _places(sitter: Sitter, region: str) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of its pixels."""
    part = sitter.part(region)
    if part is None:
        return np.empty(0), np.empty(0)
    box, inside = part
    rows, columns = inside.numpy().nonzero()
    return sitter.axes.to_face(columns + box[1].start + 0.5, rows + box[0].start + 0.5)


def _line(t: np.ndarray, v: np.ndarray, share: float, degree: int) -> np.ndarray:
    """The polynomial, highest power first, near the edge of places: above it lies this share of each stretch."""
    stretch = ((t - t.min()) / (np.ptp(t) + 1e-6) * _STRETCHES).astype(int)
    order = np.lexsort((v, stretch))
    stretch, t, v = stretch[order], t[order], v[order]
    found, first, count = np.unique(stretch, return_index=True, return_counts=True)
    at = first + np.round(share * (count - 1)).astype(int)
    middle = np.add.reduceat(t, first) / count
    line = np.polyfit(middle, v[at], min(degree, len(found) - 1))
    return np.concatenate([np.zeros(degree + 1 - len(line)), line])


def _shift(by: float) -> np.ndarray:
    return np.array([0.0, 0.0, 0.0, by])


@dataclass(frozen=True)
class Iris:
    """The circle of an iris: its middle and radius in pixels of the sitter's part; how much darker it is than what is
    beside it (``contrast``), and where the eye looks: 0 straight, towards the subject's left above."""

    x: float
    y: float
    radius: float
    contrast: float
    gaze: float


def irises(sitter: Sitter, seen: Sequence[Eye]) -> Iterator[tuple[Eye, Iris]]:
    """The eyes whose irises are seen. Both look the same way, that of the eye in which it is clearer."""
    found = [(eye, one) for eye in seen if (one := _iris(sitter, eye, 0.0, _STRAIGHT))]
    if found:
        gaze = max((one for _, one in found), key=lambda one: one.contrast).gaze
        for eye, _ in found:
            if one := _iris(sitter, eye, gaze, _ALIKE):
                yield eye, one


def _iris(sitter: Sitter, eye: Eye, gaze: float, spread: float) -> Iris | None:
    """The circle that is darkest against what is beside it in the eye, about where it may look, in parts of the eye's
    width. None in eyes too small or too narrow to show one."""
    part = sitter.part(eye.label)
    if part is None:
        return None
    box, inside = part
    width = eye.width * sitter.unit
    factor = max(1, round(width / _CELLS))
    light = lightness(sitter.pixels[box].reshape(-1, 3)).view(*inside.shape, 1)
    cells = averaged(torch.cat([light, inside[..., None].float()], 2), factor)
    light, there = cells[..., 0], cells[..., 1]
    # Where each cell's middle lies in the eye.
    y = box[0].start + (torch.arange(there.shape[0])[:, None] + 0.5) * factor
    x = box[1].start + (torch.arange(there.shape[1]) + 0.5) * factor
    u, v = (torch.from_numpy(place).float() for place in sitter.axes.to_face(x.numpy()[None], y.numpy()))
    looks = eye.side * (eye.way(u) - 0.5)
    middle = (eye.lid(eye.way(u)) + eye.lower_lid(eye.way(u))) / 2
    likely = torch.exp(-0.5 * ((looks - gaze) / spread) ** 2 - 0.5 * ((v - middle) / (_HIGH * eye.width)) ** 2)
    best, found = 0.0, None
    for share in _IRIS:
        radius = share * width / factor
        if radius < 1.5:
            return None
        reach = int(np.ceil(1.7 * radius))
        places = torch.arange(-reach, reach + 1).float()
        away = (places[:, None] ** 2 + places**2).sqrt()
        disc = (radius + 0.5 - away).clamp(0, 1)
        # Lids cover it above and below: what is beside it is to its left and right.
        ring = (1.5 * radius + 0.5 - away).clamp(0, 1) * (away - 1.05 * radius + 0.5).clamp(0, 1)
        ring = ring * (places.abs()[None] > places.abs()[:, None])
        sides = [ring * (places < 0), ring * (places > 0)]
        sums = _sums(torch.stack([there, there * light]), torch.stack([disc, *sides]))
        dark, *beside = sums[1] / sums[0].clamp(min=1e-3)
        known = (sums[0, 1:] > 0.1 * ring.sum()).float()
        contrast = sum((side - dark) * one for side, one in zip(beside, known, strict=True)) / known.sum(0).clamp(min=1)
        seen = sums[0, 0] / disc.sum()
        score = contrast * seen.clamp(0, 0.8) * (seen > 0.35) * likely
        value, place = score.flatten().max(0)
        if float(value) > best:
            row, column = divmod(int(place), score.shape[1])
            best = float(value)
            found = Iris(float(x[column]), float(y[row, 0]), radius * factor, best, float(looks[row, column]))
    return found


def _sums(values: Tensor, weights: Tensor) -> Tensor:
    """What there is of values [n, h, w] about each cell, by weights [m, k, k]: [n, m, h, w]. By Fourier transforms, for
    convolutions with one channel take many times as long on some processors."""
    (height, width), size = values.shape[1:], weights.shape[1]
    whole = (height + size - 1, width + size - 1)
    spectrum = torch.fft.rfft2(values, s=whole)[:, None] * torch.fft.rfft2(weights, s=whole).conj()
    sums = torch.fft.irfft2(spectrum, s=whole)
    return sums.roll((size // 2, size // 2), (2, 3))[..., :height, :width]
