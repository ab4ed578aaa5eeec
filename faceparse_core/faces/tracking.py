"""Faces over the frames of a video: the same face keeps its index, its window and its labels hold still."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.face import Face, framing, wrapped
from faceparse_core.faces.finder import Finder
from faceparse_core.faces.frames import Found, Framed, framed
from faceparse_core.faces.windows import Look, Seen, resampled
from faceparse_core.rendering import Window

# Frames whose thumbnails differ by more than this on average, of 1, belong to different scenes.
_CUT = 0.12
# So many frames a face that is not seen is looked for where it was.
_PATIENCE = 5
# Up to these a face has not moved: shares of the window's side, of its size, and degrees.
_STILL, _SAME_SIZE, _SAME_TILT = 0.04, 0.06, 4.0
# How much of a frame's box counts against those before: the least; more from this move on, in shares of the face's
# size, and all of it from the second.
_LEAST_OF_BOX, _MOVES, _LEAPS = 0.25, 0.05, 0.2
# How much of a frame's logits counts against those before: the least, and from which change of the probabilities on
# (0..1) more, until all of it does.
_LEAST, _CHANGE, _NEW = 0.2, 0.35, 0.8


@dataclass
class _Track:
    face: Face
    window: Window
    sides: tuple[float, float, float, float]  # left, top, right, bottom of its box, calmed by those before
    missed: int = 0


class Tracker:
    """What is remembered of the frames before. ``parse(track=tracker)`` goes on where the last call ended, for videos
    that come in pieces; ``track=True`` begins anew."""

    def __init__(self) -> None:
        self._thumbnail: Tensor | None = None
        self._tracks: list[_Track] = []
        self._next = 0
        self._numbers: dict[int, int] = {}
        self._whole: Look | None = None
        self._calm: dict[int, Look] = {}
        self._portrait = True

    def follow(self, images: Sequence[Tensor], found: Sequence[Found], finder: Finder | None = None) -> list[Found]:
        """What was found in frames with the index that each face has all along, windows that hold still, and word of
        which frames begin a scene. ``finder``: looks again for a face that was not found where it was before."""
        cuts = [self._is_cut(image) for image in images]
        followed = []
        alike = self._alike_in_a_scene(images, found, cuts)
        for image, one, cut, portrait in zip(images, found, cuts, alike, strict=True):
            if cut:
                self._tracks, self._next = [], 0
            faces = self._matched(image, one.faces, finder)
            windows = [track.window for track in self._tracks if not track.missed]
            followed.append(Found(faces, windows, portrait, cut, one.others))
        return followed

    def steadied(self, frames: Sequence[Framed], seen: Sequence[Seen]) -> list[Seen]:
        """The looks at frames, as a whole and at their faces, each calmed by those before."""
        return [self._steadied(frame, looks) for frame, looks in zip(frames, seen, strict=True)]

    def numbered(self, frame: Framed, shown: Sequence[Face]) -> tuple[Face, ...]:
        """Those of a frame's faces of which the network sees something, with the index that they have all along: they
        are counted as they come, and what turned out to be no face is not."""
        if frame.cut:
            self._numbers = {}
        return tuple(replace(face, index=self._numbers.setdefault(face.index, len(self._numbers))) for face in shown)

    def _steadied(self, frame: Framed, seen: Seen) -> Seen:
        if frame.cut:
            self._whole = None
            self._calm = {}
        self._whole = _calmed(seen.whole, self._whole)
        calm = []
        for face, look in zip(frame.faces, seen.details, strict=False):  # a portrait has a face, but no detail
            calm.append(_calmed(look, self._calm.get(face.index)))
            self._calm[face.index] = calm[-1]
        here = {track.face.index for track in self._tracks}
        self._calm = {index: look for index, look in self._calm.items() if index in here}
        return Seen(self._whole, calm)

    def _is_cut(self, image: Tensor) -> bool:
        thumbnail = pictures.resize(image, (24, 24)).cpu().float() / (255 if image.dtype == torch.uint8 else 1)
        before, self._thumbnail = self._thumbnail, thumbnail
        return before is None or (thumbnail - before).abs().mean().item() > _CUT

    def _alike_in_a_scene(self, images: Sequence[Tensor], found: Sequence[Found], cuts: Sequence[bool]) -> list[bool]:
        """Which frames are parsed as portraits: of a scene all or none, or the scale would jump."""
        portraits = [framed(one, image.shape).portrait for one, image in zip(found, images, strict=True)]
        start = 0
        for end in range(1, len(found) + 1):
            if end < len(found) and not cuts[end]:
                continue
            alike = all(portraits[start:end]) and (cuts[start] or self._portrait)
            portraits[start:end] = [alike] * (end - start)
            self._portrait, start = alike, end
        return portraits

    def _matched(self, image: Tensor, faces: Sequence[Face], finder: Finder | None) -> list[Face]:
        pairs = sorted(
            (distance, number, t)
            for t, track in enumerate(self._tracks)
            for number, face in enumerate(faces)
            if (distance := _apart(track.face, face)) < 0.6
        )
        seen: dict[int, Face] = {}
        taken: set[int] = set()
        for _, number, t in pairs:
            if t not in seen and number not in taken:
                seen[t] = faces[number]
                taken.add(number)
        lost = [t for t, track in enumerate(self._tracks) if t not in seen and track.missed < _PATIENCE]
        looked_for = finder.find_near(image, [self._tracks[t].face for t in lost]) if finder and lost else []
        for t, again in zip(lost, looked_for, strict=False):
            if again and all(_apart(again, face) > 0.6 for face in seen.values()):
                seen[t] = again
        for t, track in enumerate(self._tracks):
            track.missed = 0 if t in seen else track.missed + 1
            if t in seen:
                track.sides = _held(track.sides, seen[t])
                left, top, right, bottom = (round(side) for side in track.sides)
                wide, high = max(right - left, 1), max(bottom - top, 1)
                track.face = replace(seen[t], index=track.face.index, x=left, y=top, width=wide, height=high)
                track.window = _steady(track.window, framing(track.face))
        self._tracks = [track for track in self._tracks if track.missed <= _PATIENCE]
        for number, face in enumerate(faces):
            if number not in taken:
                face = replace(face, index=self._next)
                self._tracks.append(_Track(face, framing(face), _sides(face)))
                self._next += 1
        self._tracks.sort(key=lambda track: track.face.index)
        return [track.face for track in self._tracks if not track.missed]


def _apart(a: Face, b: Face) -> float:
    """How far two faces are from being one: distance of their middles and difference of their sizes, in sizes."""
    size = max(a.height, b.height)
    away = math.hypot(a.x + a.width / 2 - b.x - b.width / 2, a.y + a.height / 2 - b.y - b.height / 2) / size
    return away + 0.5 * abs(math.log(a.height / b.height))


def _sides(face: Face) -> tuple[float, float, float, float]:
    return face.x, face.y, face.x + face.width, face.y + face.height


def _held(before: tuple[float, float, float, float], face: Face) -> tuple[float, float, float, float]:
    """The sides of a face's box, mixed with those before: the finder's are never quite the same twice."""
    now = _sides(face)
    moved = max(abs(a - b) for a, b in zip(now, before, strict=True)) / max(face.width, face.height)
    share = _LEAST_OF_BOX + (1 - _LEAST_OF_BOX) * min(max((moved - _MOVES) / (_LEAPS - _MOVES), 0.0), 1.0)
    left, top, right, bottom = (b + share * (a - b) for a, b in zip(now, before, strict=True))
    return left, top, right, bottom


def _steady(before: Window, now: Window) -> Window:
    """The window of a face that has not moved stays; that of one that has follows it, its size and tilt slowly."""
    tilt = wrapped(now.angle - before.angle)
    moved = math.dist(before.centre, now.centre) / before.width
    if moved < _STILL and abs(math.log(now.width / before.width)) < _SAME_SIZE and abs(tilt) < _SAME_TILT:
        return before
    side, angle = before.width + 0.4 * (now.width - before.width), before.angle + 0.4 * tilt
    x, y = now.centre
    return Window(x - side / 2, y - side / 2, side, side, angle)


def _calmed(now: Look, before: Look | None) -> Look:
    """A look mixed with the one before: where little has changed that counts most, where much has nothing of it."""
    if before is None:
        return now
    if before.window != now.window or before.logits.shape != now.logits.shape:
        before = resampled(before, now)
    change = (now.logits.softmax(0) - before.logits.softmax(0)).abs().sum(0) / 2
    share = (_LEAST + (change - _CHANGE) * (1 - _LEAST) / (_NEW - _CHANGE)).clamp(_LEAST, 1)
    return Look(torch.lerp(before.logits, now.logits, share), now.window)
