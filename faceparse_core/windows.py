"""Windows: pieces of an image that the network sees by themselves, and how what it saw of them is put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.labels import NUM_LABELS, region_ids


@dataclass(frozen=True)
class Window:
    """The rectangle of an image that the network saw, in the image's pixels. It may reach beyond the image.

    ``angle``: by how many degrees it is turned about its centre, clockwise; ``x, y, width, height`` are those before.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


def padded(image: Tensor, left: int, top: int, size: tuple[int, int], colour: Sequence[float]) -> Tensor:
    """The image [H, W, 3] with its corner at ``left, top`` (they may be negative) of a field of ``size``, of one
    ``colour``, three in 0..1, where the image is not."""
    height, width = image.shape[:2]
    if (left, top) == (0, 0) and (height, width) == size:
        return image
    scale = 255 if image.dtype == torch.uint8 else 1
    field = torch.tensor(colour, device=image.device).mul(scale).to(image.dtype).repeat(*size, 1)
    y, x = slice(max(0, top), min(size[0], top + height)), slice(max(0, left), min(size[1], left + width))
    if y.start < y.stop and x.start < x.stop:
        field[y, x] = image[y.start - top : y.stop - top, x.start - left : x.stop - left]
    return field


def cut(image: Tensor, window: Window, size: int, colour: Sequence[float]) -> Tensor:
    """What lies in a square ``window`` of the image, [H, W, 3], upright and brought to ``size`` pixels a side.

    The dtype stays. Beyond the image there is the ``colour``, three in 0..1.
    """
    x, y = window.centre
    # A turned window lies within a square that is larger by a half at most.
    reach = window.width if not window.angle else window.width * (
        abs(math.sin(math.radians(window.angle))) + abs(math.cos(math.radians(window.angle))))  # fmt: skip
    left, top = math.floor(x - reach / 2), math.floor(y - reach / 2)
    side = max(1, round(reach))
    piece = padded(image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)],
                   max(0, -left), max(0, -top), (side, side), colour)  # fmt: skip
    if not window.angle:
        return pictures.resize(piece, (size, size))
    scaled = round(size * side / window.width)
    piece = pictures.resize(piece, (scaled, scaled)).permute(2, 0, 1)[None].float()
    sine, cosine = math.sin(math.radians(window.angle)), math.cos(math.radians(window.angle))
    share = window.width / side
    shift = 2 * (x - left) / side - 1, 2 * (y - top) / side - 1
    theta = torch.tensor([[[cosine * share, -sine * share, shift[0]], [sine * share, cosine * share, shift[1]]]])
    grid = F.affine_grid(theta.to(piece), (1, 3, size, size), align_corners=False)
    upright = F.grid_sample(piece, grid, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
    return upright.round_().to(image.dtype) if image.dtype == torch.uint8 else upright


# ---------------------------------------------------------------------------------------------- put together

# From this share of the way from the middle of a window to its border on, what was seen in it counts less and less.
_SURE = 0.7
# How quickly a window gives way to another whose middle is nearer.
_NEARNESS = 6.0
# What may be beyond the windows, and how many heights of its face away: seen from afar, all else is a mistake.
_REACH = {"hair + hat + earring": 3.0, "neck + necklace": 2.0, "clothing": 9.0}


def compose(
    whole: Tensor, window: Window, size: tuple[int, int], details: Sequence[tuple[Tensor, Window]]
) -> tuple[list[tuple[Tensor, Window]], list[Tensor]]:
    """One picture of what was seen of an image and, more exactly, of each of its faces.

    ``whole``: logits, float32 [19, h, w], and the ``window`` they lie in, which holds the image of ``size`` (height,
    width); ``details``: the same of each face, of square windows twice as high as the face that may be turned.

    Returns layers of logits with their upright windows, to be painted over each other in order: first the whole image,
    then the surroundings of each face, those of the largest first. Where windows meet, the one whose middle is nearer
    counts more, and towards its border each gives way to the whole, so that a layer ends in what lies under it. In
    the whole only what hangs together with a face is left; the rest is background. And of each layer whose its cells
    are: the number of the face, uint8 [h, w].
    """
    centres = _cells(whole.shape[1:], window).to(whole.device)
    base, base_owner = _attached(whole, centres, [detail for _, detail in details])
    layers, owners = [(base, window)], [base_owner]
    for number in sorted(range(len(details)), key=lambda n: -details[n][1].width):
        seen, detail = details[number]
        left, top, right, bottom = _inside(detail, size)
        if left >= right or top >= bottom:
            continue
        place = Window(left, top, right - left, bottom - top)
        cell = detail.width / seen.shape[2]
        cells = math.ceil(place.height / cell), math.ceil(place.width / cell)
        centres = _cells(cells, place).to(whole.device)
        mixed = _sampled(base, window, centres)
        total, share, rest = torch.zeros_like(mixed), torch.zeros_like(mixed[0]), torch.ones_like(mixed[0])
        nearest, owner = torch.full_like(share, torch.inf), torch.zeros(cells, dtype=torch.uint8, device=share.device)
        for other, (logits, around) in enumerate(details):
            across, down = _within(around, centres)
            edge = torch.maximum(across.abs(), down.abs())
            if edge.min() >= 1:
                continue
            inside = ((1 - edge) / (1 - _SURE)).clamp(0, 1)
            away = across.square() + down.square()
            weight = inside * torch.exp(-_NEARNESS * away)
            total += weight * _sampled(logits, around, centres)
            share += weight
            rest *= 1 - inside
            owner[away < nearest] = other
            nearest = torch.minimum(nearest, away)
        mixed = torch.where(share > 0, torch.lerp(total / share.clamp_min(1e-12), mixed, rest), mixed)
        layers.append((mixed, place))
        owners.append(owner)
    return layers, owners


def _cells(cells: Sequence[int], window: Window) -> Tensor:
    """The centres of cells in an upright window, x and y in the image's pixels, float32 [2, h, w]."""
    x = window.x + (torch.arange(cells[1], dtype=torch.float32) + 0.5) * (window.width / cells[1])
    y = window.y + (torch.arange(cells[0], dtype=torch.float32) + 0.5) * (window.height / cells[0])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def _within(window: Window, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points, x and y [2, …], lie in a window: from -1 to 1 across and down, along its own axes."""
    x, y = points[0] - window.centre[0], points[1] - window.centre[1]
    sine, cosine = math.sin(math.radians(window.angle)), math.cos(math.radians(window.angle))
    return (cosine * x + sine * y) / (window.width / 2), (cosine * y - sine * x) / (window.height / 2)


def _sampled(logits: Tensor, window: Window, points: Tensor) -> Tensor:
    """Logits [19, h, w] of a window at points [2, H, W] of the image: [19, H, W]."""
    grid = torch.stack(_within(window, points), dim=-1)[None]
    return F.grid_sample(logits[None], grid, padding_mode="border", align_corners=False)[0]


def _inside(window: Window, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels of an image that a turned window reaches."""
    sine, cosine = abs(math.sin(math.radians(window.angle))), abs(math.cos(math.radians(window.angle)))
    x, y = window.centre
    wide, high = (window.width * (sine + cosine) / 2 for _ in range(2))
    return (max(0, math.floor(x - wide)), max(0, math.floor(y - high)),
            min(size[1], math.ceil(x + wide)), min(size[0], math.ceil(y + high)))  # fmt: skip


def _attached(whole: Tensor, centres: Tensor, details: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """The logits of a whole image with nothing but background where nothing hangs together with a face, and whose
    each cell is, uint8 [h, w]."""
    import numpy as np
    from scipy import ndimage

    if not details:
        return _nothing(whole.device), torch.zeros(1, 1, dtype=torch.uint8)
    # Of each face: how far away every cell is, in heights of the face.
    away = torch.stack([
        (points[0].square() + points[1].square()).sqrt() for points in (_within(detail, centres) for detail in details)
    ])  # fmt: skip
    nearest, owner = away.min(0)
    labels = whole.argmax(0)
    reach = torch.full((NUM_LABELS,), 1.2, device=whole.device)  # parts of the face
    for region, most in _REACH.items():
        reach[list(region_ids(region))] = most
    person = ((labels > 0) & (nearest <= reach[labels])).cpu().numpy()
    pieces, count = ndimage.label(person, np.ones((3, 3), dtype=bool))
    faces = (nearest < 0.5).cpu().numpy()
    attached = np.zeros(count + 1, dtype=bool)
    attached[np.unique(pieces[faces])] = True
    attached[0] = False
    # With a rim, in which the background stays as uncertain as it was seen.
    keep = attached[pieces]
    keep = torch.from_numpy(keep | (ndimage.binary_dilation(keep, iterations=3) & ~person)).to(whole.device)
    return torch.where(keep, whole, _nothing(whole.device)), owner.to(torch.uint8)


def _nothing(device: torch.device) -> Tensor:
    """Logits [19, 1, 1] of what is background for certain."""
    logits = torch.full((NUM_LABELS, 1, 1), -10.0, device=device)
    logits[0] = 10
    return logits
