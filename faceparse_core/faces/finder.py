"""Finding faces: pictures in, faces out. What parses them is not known here.

One look at the whole picture, small, and where that is not one portrait a second, closer one.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from faceparse_core import images as pictures
from faceparse_core.devices import PRECISIONS, placed
from faceparse_core.errors import CheckpointError
from faceparse_core.faces.face import Face, arranged, clipped, framing, wrapped
from faceparse_core.faces.windows import cuts
from faceparse_core.models import MEAN, STD
from faceparse_core.models.finder import MARKS, STRIDE, FinderNetwork
from faceparse_core.rendering import Window, paced

WEIGHTS = Path(__file__).parents[1] / "weights" / "finder.safetensors"

# The longer side of the first look at a picture, and the pixels that the second has at most. Where a picture is much
# smaller than that, it is enlarged a little.
_GLANCE, _SECOND_PIXELS, _ENLARGED = 192, 704 * 528, 1.5
_MULTIPLE = 32
# From this score on something is a face. What is less, but this much, is no surer than a look at it alone: it is one if
# that says ``CONFIRMED``, and with this score it may be one. What is still less asks for a closer look at the whole.
_FACE, _DOUBTFUL, _POSSIBLE, _HINT = 0.5, 0.3, 0.25, 0.15
# A face that fills its picture is at least so sure, and others beside it at most so likely.
_FILLING, _BESIDE = 0.5, 0.3
_LARGE = 110  # of a face in the second look, in pixels: from here on it is seen better in the first
_MOST = 400  # faces of one look
# Where a face is known to be, the window around it is seen so large, and so little is enough.
_NEAR, _FACE_NEAR = 192, 0.3
# A face tilted by more than this, in degrees, is looked at again, turned upright, until hardly any tilt is left. Tilts
# are seen larger than they are: what is left is taken for this share of it, or the looks would go to and fro.
_TILTED, _LEFT, _TURNS, _SHARE = 12.0, 6.0, 4, 0.75
# Marks that span less of a face's box tell nothing of its tilt: it may be any of these. Where they tell nothing in any
# of them, it takes such a score for a face.
_SPANNED, _ANY, _PLAIN = 0.07, (0.0, 90.0, 180.0, -90.0), 0.6
# Two boxes show the same face if they share so much of both, or the smaller lies in the larger by so much.
_SAME, _WITHIN = 0.4, 0.75
_PIXELS_AT_ONCE = 1024 * 1024


@dataclass(frozen=True)
class Found:
    """Faces in an image: boxes, float32 [n, 4] (left, top, right, bottom, perhaps beyond the image), marks [n, 5, 2]
    and scores [n] in 0..1, the surest first."""

    boxes: Tensor
    marks: Tensor
    scores: Tensor

    def __getitem__(self, which: Tensor) -> Found:
        return Found(self.boxes[which], self.marks[which], self.scores[which])


class Finder:
    """Finds the faces of pictures with a ``FinderNetwork`` that is ready on ``device``."""

    def __init__(self, network: nn.Module, device: torch.device):
        self.network, self.device = network, device

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def bundled(device: torch.device, precision: str) -> Finder:
        """The one that comes with the package; loaded once. Raises ``CheckpointError`` if its weights are missing."""
        if not WEIGHTS.is_file():
            raise CheckpointError(f"the bundled weights {WEIGHTS} are missing: install faceparse again")
        return Finder.of(WEIGHTS, device, precision)

    @staticmethod
    def of(weights: Path, device: torch.device, precision: str) -> Finder:
        """With weights of one's own training."""
        from safetensors.torch import load_file

        network = FinderNetwork()
        network.load_state_dict(load_file(weights))
        network = placed(network.fold(), device)
        if precision != "fp32":
            network.narrow(PRECISIONS[precision])
        return Finder(network.pack() if device.type == "cpu" else network, device)

    def find(self, images: Sequence[Tensor]) -> list[list[Face]]:
        """The faces of images, uint8 or float (0..1) [H, W, 3] each, the largest first; images of one size share
        batches."""
        found = [_faces(found, image.shape) for image, found in zip(images, self._found(images), strict=True)]
        places = [(n, face) for n, faces in enumerate(found) for face in faces]
        views, seen = [images[n] for n, _ in places], [face for _, face in places]
        # What is doubtful and what is tilted is looked at by itself, all in one go.
        asked = [k for k, face in enumerate(seen) if face.score < _FACE or _is_tilted(face)]
        near = self._near([views[k] for k in asked], [seen[k] for k in asked], _POSSIBLE)
        known = dict(zip(asked, near, strict=True))
        believed = [_believed(face, known.get(k)) for k, face in enumerate(seen)]
        known = {k: face if face and face.score >= _FACE_NEAR else None for k, face in known.items()}
        faces: list[list[Face]] = [[] for _ in images]
        for (n, _), face in zip(places, self._upright(views, believed, known), strict=True):
            if face:
                faces[n].append(face)
        return [arranged(one, "size", 0) for one in faces]

    def find_near(self, image: Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """Each of these faces, whose places are known from elsewhere, as it is seen in an image, uint8 or float [H, W,
        3], there or nearby, with its index; None for what is not there."""
        near = self._near([image] * len(faces), [replace(face, angle=0.0) for face in faces])
        seen = [(face, one) for face, one in zip(faces, near, strict=True) if one]
        upright = iter(self._upright([image] * len(seen), [replace(one, index=face.index) for face, one in seen], {}))
        return [next(upright) if one else None for one in near]

    def _near(self, images: Sequence[Tensor], faces: Sequence[Face], least: float = _FACE_NEAR) -> list[Face | None]:
        """Each of these faces, one of each image, as it is seen in a window of its own, which is turned by its
        angle, if its score there is at least so much."""
        seen: list[Face | None] = []
        at_once = _PIXELS_AT_ONCE // _NEAR**2
        places = list(zip(images, faces, strict=True))
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            windows = [replace(framing(face), angle=face.angle) for _, face in some]
            pixels = cuts([(image, window) for (image, _), window in zip(some, windows, strict=True)], _NEAR, MEAN)
            outputs = self._seen(_normalised(pixels.to(self.device)))
            for (image, face), window, output in zip(some, windows, outputs, strict=True):
                found = _placed(decoded(output, least), window, _NEAR)
                near = [one for one in _faces(found, image.shape) if _overlap(one, face) > 0.3]
                seen.append(max(near, key=lambda one: one.score * _overlap(one, face), default=None))  # noqa: B023
        return seen

    def _upright(
        self, images: Sequence[Tensor], faces: Sequence[Face | None], known: Mapping[int, Face | None]
    ) -> list[Face | None]:
        """These faces, one of each image or none, with their tilt as it is seen when they are turned upright: most of
        what the network learnt from stood so. Those that stand upright are as they were; what cannot be made out is
        None. ``known``: what is known already of some of them, by their numbers, as ``_near`` says it."""
        settled = self._decided(images, faces)
        tilted = [n for n, face in enumerate(settled) if face and abs(face.angle) > _TILTED]
        for _ in range(_TURNS):
            new = {n: face for n in tilted if (face := settled[n]) and (n not in known or face is not faces[n])}
            near = self._near([images[n] for n in new], list(new.values()))
            known = {**known, **dict(zip(new, near, strict=True))}
            left = []
            for n in tilted:
                face, seen = settled[n], known[n]
                if face is None or seen is None:
                    continue
                more = wrapped(seen.angle - face.angle)
                angle = round(wrapped(face.angle + _SHARE * more), 1)
                settled[n] = replace(seen, index=face.index, angle=angle, score=max(seen.score, face.score))
                if abs(more) > _LEFT:
                    left.append(n)
            tilted = left
        return settled

    def _decided(self, images: Sequence[Tensor], faces: Sequence[Face | None]) -> list[Face | None]:
        """These faces, those whose marks tell no tilt as they are seen in that of four turns in which they look most
        like a face that stands upright. What does in none is no face, unless it is a sure one, without a tilt."""
        doubted = [(n, face) for n, face in enumerate(faces) if face and _span(face) < _SPANNED]
        turned = [replace(face, angle=angle) for _, face in doubted for angle in _ANY]
        guesses = iter(zip(turned, self._near([images[n] for n, _ in doubted for _ in _ANY], turned), strict=True))
        decided = list(faces)
        for n, face in doubted:
            upright = [seen for turn, seen in itertools.islice(guesses, len(_ANY)) if seen and _alike(seen, turn)]
            best = max(upright, key=lambda seen: seen.score * _span(seen), default=None)
            if best:
                decided[n] = replace(best, index=face.index, score=face.score)
            else:
                decided[n] = replace(face, angle=0.0) if face.score >= _PLAIN else None
        return decided

    def _found(self, images: Sequence[Tensor]) -> list[Found]:
        sizes = [image.shape[:2] for image in images]
        found = self._looks(images, [_GLANCE / max(size) for size in sizes], _HINT)
        closer = [n for n, size in enumerate(sizes) if not _is_filled(found[n], size)]
        scales = [min(_ENLARGED, math.sqrt(_SECOND_PIXELS / (sizes[n][0] * sizes[n][1]))) for n in closer]
        closer = [(n, scale) for n, scale in zip(closer, scales, strict=True) if scale > 1.25 * _GLANCE / max(sizes[n])]
        seen = self._looks([images[n] for n, _ in closer], [scale for _, scale in closer], _DOUBTFUL)
        for (n, scale), more in zip(closer, seen, strict=True):
            found[n] = _together(found[n], more, scale)
        return [one[one.scores >= _DOUBTFUL] for one in found]

    def _looks(self, images: Sequence[Tensor], scales: Sequence[float], least: float) -> list[Found]:
        """What is found in images, each brought to a scale."""
        groups: dict[tuple[int, int], list[int]] = {}
        frames = []
        for number, (image, scale) in enumerate(zip(images, scales, strict=True)):
            inner = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
            frame = _MULTIPLE * math.ceil(inner[0] / _MULTIPLE), _MULTIPLE * math.ceil(inner[1] / _MULTIPLE)
            frames.append((inner, frame))
            groups.setdefault(frame, []).append(number)
        found: dict[int, Found] = {}
        for frame, group in groups.items():
            at_once = max(1, _PIXELS_AT_ONCE // (frame[0] * frame[1]))
            for start in range(0, len(group), at_once):
                some = group[start : start + at_once]
                pixels = torch.zeros(len(some), *frame, 3, device=self.device)  # grey beyond the images
                for place, n in zip(pixels, some, strict=True):
                    height, width = frames[n][0]
                    small = pictures.resize(images[n], (height, width)).to(self.device)
                    place[:height, :width] = _normalised(small)
                for n, output in zip(some, self._seen(pixels), strict=True):
                    one = decoded(output, least)
                    factor = torch.tensor([images[n].shape[1] / frames[n][0][1], images[n].shape[0] / frames[n][0][0]])
                    found[n] = Found(one.boxes * factor.repeat(2), one.marks * factor, one.scores)
        return [found[n] for n in range(len(images))]

    @torch.inference_mode()
    def _seen(self, pixels: Tensor) -> Tensor:
        """What the network says of pictures [B, H, W, 3], normalised: float32 [B, 15, H/8, W/8] on the CPU."""
        return paced(self.network, pixels.permute(0, 3, 1, 2)).cpu()


def _normalised(images: Tensor) -> Tensor:
    """Images [..., H, W, 3] as the network takes them, float32 of the same shape."""
    # For whole rows of pixels: steps of three values are too small to be quick.
    mean, std = (torch.tensor(values, device=images.device).repeat(images.shape[-2]) for values in (MEAN, STD))
    return (pictures.as_float(images).flatten(-2) - mean).div_(std).view(images.shape)


def decoded(output: Tensor, least: float) -> Found:
    """The faces in the network's map, float32 [15, h, w], whose score is at least so much; in the map's pixels."""
    # Of few numbers, and numpy takes less for each of its steps.
    likely, values = output[0].numpy(), output[1:].numpy()
    row, column = np.nonzero(likely >= math.log(least / (1 - least)))
    around = sliding_window_view(np.pad(likely, 1, constant_values=-np.inf), (3, 3))[row, column]
    peak = likely[row, column] == around.max((1, 2))
    row, column = row[peak], column[peak]
    order = np.argsort(-likely[row, column], kind="stable")[:_MOST]
    row, column = row[order], column[order]
    scores = 1 / (1 + np.exp(-likely[row, column]))
    values = values[:, row, column].T
    cell = STRIDE * (np.stack([column, row], 1).astype(np.float32) + 0.5)
    sides = STRIDE * np.exp(values[:, 2:4].clip(-4, 8))
    extent = np.sqrt(sides.prod(1, keepdims=True))
    centre = cell + values[:, :2] * extent
    marks = cell[:, None] + values[:, 4:].reshape(-1, MARKS, 2) * extent[:, None]
    boxes = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
    return _distinct(Found(*map(torch.from_numpy, (boxes, marks, scores))))


def _placed(found: Found, window: Window, side: int) -> Found:
    """What was found in a window that was seen ``side`` pixels wide, in the pixels of its image; a box that is turned
    with its window becomes that of the ellipse in it."""
    scale, turn = window.width / side, math.radians(window.angle)
    forth = scale * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = torch.tensor(window.centre)
    centres = (found.boxes.view(-1, 2, 2).mean(1) - side / 2) @ forth.T + middle
    halves = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2
    reach = (halves.square() @ forth.T.square()).sqrt()
    marks = (found.marks - side / 2) @ forth.T + middle
    return Found(torch.cat([centres - reach, centres + reach], 1), marks, found.scores)


def _together(coarse: Found, fine: Found, scale: float) -> Found:
    """What two looks found, the second at this ``scale``: a face that both did as the one that saw it better did."""
    boxes, marks, scores = (
        torch.cat([getattr(one, name) for one in (coarse, fine)]) for name in ("boxes", "marks", "scores")
    )
    second = torch.arange(len(scores)) >= len(coarse.scores)
    large = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() * scale > _LARGE
    return _distinct(Found(boxes, marks, scores)[(scores - 0.3 * (second == large)).argsort(descending=True)])


def _distinct(found: Found) -> Found:
    """The faces without those that are one that is surer."""
    boxes = found.boxes.numpy()
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = (end - corner).clip(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    same = (both > _SAME * (area[:, None] + area - both)) | (both > _WITHIN * np.minimum(area[:, None], area))
    kept: list[int] = []
    for face in range(len(boxes)):
        if not same[face, kept].any():
            kept.append(face)
    return found[torch.tensor(kept, dtype=torch.long)]


def _faces(found: Found, size: Sequence[int]) -> list[Face]:
    """The faces of an image (height, width); of their boxes what lies in it."""
    faces = []
    for box, marks, score in zip(found.boxes.tolist(), found.marks.tolist(), found.scores.tolist(), strict=True):
        left, top, right, bottom = clipped(box, size)
        if right <= left or bottom <= top:
            continue
        landmarks = tuple((round(x, 1), round(y, 1)) for x, y in marks)
        faces.append(
            Face(0, left, top, right - left, bottom - top, round(tilt(landmarks), 1), round(score, 3), landmarks)
        )
    return faces


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of the boxes of two faces."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    both = max(0, width) * max(0, height)
    return both / (a.width * a.height + b.width * b.height - both)


def tilt(landmarks: Sequence[Sequence[float]]) -> float:
    """The angle of a face in degrees, clockwise, by its five landmarks: from the eyes to the mouth is down, and so is
    the line of the eyes, turned by a right angle."""
    (ax, ay), (bx, by), _, (cx, cy), (dx, dy) = landmarks
    across = (cx + dx - ax - bx) / 2 - (by - ay)
    down = (cy + dy - ay - by) / 2 + (bx - ax)
    return math.degrees(math.atan2(-across, down))


def _span(face: Face) -> float:
    """How much of a face's box its marks span: the parallelogram of the eyes and the way from them to the mouth; about
    .17 of an upright face, nothing where the network could not decide how it is turned."""
    (ax, ay), (bx, by), _, (cx, cy), (dx, dy) = face.landmarks
    down_x, down_y = (cx + dx - ax - bx) / 2, (cy + dy - ay - by) / 2
    return ((bx - ax) * down_y - (by - ay) * down_x) / (face.width * face.height)


def _believed(face: Face, near: Face | None) -> Face | None:
    """A face that is sure; a doubtful one no surer than the look at it alone (``near``); None if that shows none."""
    if face.score >= _FACE:
        return face
    return replace(face, score=min(near.score, _FACE)) if near and _alike(near, face) else None


def _is_tilted(face: Face) -> bool:
    """Whether a face is tilted so much that it is looked at turned upright."""
    return _span(face) >= _SPANNED and abs(face.angle) > _TILTED


def _alike(seen: Face, turned: Face) -> bool:
    """Whether a face that was seen is turned as it was held to be."""
    return _span(seen) >= _SPANNED and abs(wrapped(seen.angle - turned.angle)) < 45


def _is_filled(found: Found, size: Sequence[int]) -> bool:
    """Whether one face fills an image (height, width), of others there is hardly a hint, and nobody else is looked
    for."""
    if not len(found.scores) or found.scores[0] < _FILLING or (found.scores[1:] > _BESIDE).any():
        return False
    sides = found.boxes[0, 2:] - found.boxes[0, :2]
    return sides.prod().sqrt().item() > 0.4 * min(size)
