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
# How far size and tilt of a face that has moved go from those before to those that it has.
_SLOWLY = 0.4
# How much of a frame's logits counts against those before: the least, and from which change of the probabilities on
# (0..1) more, until all of it does.
_LEAST, _CHANGE, _NEW = 0.2, 0.35, 0.8


@dataclass
class _Track:
    """A ``face`` as it was seen last, and what is said of it, which holds still: the face ``told``, its ``window``."""

    face: Face
    told: Face
    window: Window
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
                track.face = replace(seen[t], index=track.face.index)
                window = _steady(track.window, framing(track.face))
                track.told = _told(track.face, track.told, moved=window is not track.window)
                track.window = window
        self._tracks = [track for track in self._tracks if track.missed <= _PATIENCE]
        for number, face in enumerate(faces):
            if number not in taken:
                face = replace(face, index=self._next)
                self._tracks.append(_Track(face, face, framing(face)))
                self._next += 1
        self._tracks.sort(key=lambda track: track.face.index)
        return [track.told for track in self._tracks if not track.missed]


def _apart(a: Face, b: Face) -> float:
    """How far two faces are from being one: distance of their middles and difference of their sizes, in sizes."""
    size = max(a.height, b.height)
    away = math.hypot(a.x + a.width / 2 - b.x - b.width / 2, a.y + a.height / 2 - b.y - b.height / 2) / size
    return away + 0.5 * abs(math.log(a.height / b.height))


def _steady(before: Window, now: Window) -> Window:
    """The window of a face that has not moved stays; that of one that has follows it, its size and tilt slowly."""
    tilt = wrapped(now.angle - before.angle)
    moved = math.dist(before.centre, now.centre) / before.width
    if moved < _STILL and abs(math.log(now.width / before.width)) < _SAME_SIZE and abs(tilt) < _SAME_TILT:
        return before
    side, angle = before.width + _SLOWLY * (now.width - before.width), before.angle + _SLOWLY * tilt
    x, y = now.centre
    return Window(x - side / 2, y - side / 2, side, side, angle)


def _told(now: Face, before: Face, moved: bool) -> Face:
    """A face with the box and the tilt that it had before, where it has not ``moved``; else with those that it has, of
    which size and tilt follow slowly."""
    if not moved:
        return replace(now, x=before.x, y=before.y, width=before.width, height=before.height, angle=before.angle)
    width, height = (round(old + _SLOWLY * (new - old)) for old, new in (
        (before.width, now.width), (before.height, now.height)))  # fmt: skip
    x, y = now.x + (now.width - width) / 2, now.y + (now.height - height) / 2
    angle = wrapped(before.angle + _SLOWLY * wrapped(now.angle - before.angle))
    return replace(now, x=max(0, round(x)), y=max(0, round(y)), width=width, height=height, angle=round(angle, 1))


def _calmed(now: Look, before: Look | None) -> Look:
    """A look mixed with the one before: where little has changed that counts most, where much has nothing of it."""
    if before is None:
        return now
    if before.window != now.window or before.logits.shape != now.logits.shape:
        before = resampled(before, now)
    change = (now.logits.softmax(0) - before.logits.softmax(0)).abs().sum(0) / 2
    share = (_LEAST + (change - _CHANGE) * (1 - _LEAST) / (_NEW - _CHANGE)).clamp(_LEAST, 1)
    return Look(torch.lerp(before.logits, now.logits, share), now.window)
