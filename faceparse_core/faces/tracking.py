"""Faces over the frames of a video: the same face keeps its index, its window and its labels hold still."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.faces.face import Face, framing
from faceparse_core.faces.finder import Found
from faceparse_core.faces.windows import Look, resampled
from faceparse_core.rendering import Window

# Frames whose thumbnails differ by more than this on average, of 1, belong to different scenes.
_CUT = 0.12
# So many frames a face that is not seen is looked for where it was.
_PATIENCE = 5
# Up to these a face has not moved: shares of the window's side, of its size, and degrees.
_STILL, _SAME_SIZE, _SAME_TILT = 0.04, 0.06, 4.0
# How much of a frame's logits counts against those before: the least, and from which change of the probabilities on
# (0..1) more, until all of it does.
_LEAST, _CHANGE, _NEW = 0.2, 0.35, 0.8


@dataclass
class _Track:
    face: Face
    window: Window
    missed: int = 0


class Tracker:
    """What is remembered of the frames before. ``parse(track=tracker)`` goes on where the last call ended, for videos
    that come in pieces; ``track=True`` begins anew."""

    def __init__(self) -> None:
        self._thumbnail: Tensor | None = None
        self._tracks: list[_Track] = []
        self._next = 0
        self._whole: Look | None = None
        self._calm: dict[int, Look] = {}
        self._portrait = True

    def follow(
        self,
        images: Sequence[Tensor],
        found: Sequence[Found],
        look_again: Callable[[Tensor, Face], Face | None],
    ) -> tuple[list[Found], list[list[Window]], list[bool]]:
        """The faces of frames with the index that each has all along, their windows, and which frames begin a scene.

        ``look_again(image, face)``: that face in another frame, or None.
        """
        cuts = [self._is_cut(image) for image in images]
        found, windows = self._alike_in_a_scene(found, cuts), []
        for number, (image, one, cut) in enumerate(zip(images, found, cuts, strict=True)):
            if cut:
                self._tracks, self._next = [], 0
            faces = self._matched(image, one.faces, look_again)
            windows.append([track.window for track in self._tracks if not track.missed])
            found[number] = replace(one, faces=faces)
        return found, windows, cuts

    def steadied(self, cut: bool, one: Found, details: Sequence[Look]) -> tuple[Look, list[Look]]:
        """The look at a whole frame, and at its faces, each calmed by those before."""
        if cut:
            self._whole = None
            self._calm = {}
        self._whole = _calmed(one.look, self._whole)
        calm = []
        for face, look in zip(one.faces, details, strict=False):  # a portrait has a face, but no detail
            calm.append(_calmed(look, self._calm.get(face.index)))
            self._calm[face.index] = calm[-1]
        here = {track.face.index for track in self._tracks}
        self._calm = {index: look for index, look in self._calm.items() if index in here}
        return self._whole, calm

    def calmed(self, images: Sequence[Tensor], looks: Sequence[Look]) -> list[Look]:
        """The looks at frames that are parsed whole."""
        return [
            self.steadied(self._is_cut(image), Found([], look, portrait=True), [])[0]
            for image, look in zip(images, looks, strict=True)
        ]

    def _is_cut(self, image: Tensor) -> bool:
        thumbnail = pictures.resize(image, (24, 24)).cpu().float() / (255 if image.dtype == torch.uint8 else 1)
        before, self._thumbnail = self._thumbnail, thumbnail
        return before is None or (thumbnail - before).abs().mean().item() > _CUT

    def _alike_in_a_scene(self, found: Sequence[Found], cuts: Sequence[bool]) -> list[Found]:
        """A scene is parsed as portraits in all its frames or in none: the scale would jump."""
        found = list(found)
        start = 0
        for end in range(1, len(found) + 1):
            if end < len(found) and not cuts[end]:
                continue
            alike = all(one.portrait for one in found[start:end]) and (cuts[start] or self._portrait)
            found[start:end] = [replace(one, portrait=alike) for one in found[start:end]]
            self._portrait, start = alike, end
        return found

    def _matched(
        self, image: Tensor, faces: Sequence[Face], look_again: Callable[[Tensor, Face], Face | None]
    ) -> list[Face]:
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
        for t, track in enumerate(self._tracks):
            if t not in seen and track.missed < _PATIENCE:
                again = look_again(image, track.face)
                if again and all(_apart(again, face) > 0.6 for face in seen.values()):
                    seen[t] = again
        for t, track in enumerate(self._tracks):
            track.missed = 0 if t in seen else track.missed + 1
            if t in seen:
                track.face = replace(seen[t], index=track.face.index)
                track.window = _steady(track.window, framing(track.face))
        self._tracks = [track for track in self._tracks if track.missed <= _PATIENCE]
        for number, face in enumerate(faces):
            if number not in taken:
                face = replace(face, index=self._next)
                self._tracks.append(_Track(face, framing(face)))
                self._next += 1
        self._tracks.sort(key=lambda track: track.face.index)
        return [track.face for track in self._tracks if not track.missed]


def _apart(a: Face, b: Face) -> float:
    """How far two faces are from being one: distance of their middles and difference of their sizes, in sizes."""
    size = max(a.height, b.height)
    away = math.hypot(a.x + a.width / 2 - b.x - b.width / 2, a.y + a.height / 2 - b.y - b.height / 2) / size
    return away + 0.5 * abs(math.log(a.height / b.height))


def _steady(before: Window, now: Window) -> Window:
    """The window of a face that has not moved stays; that of one that has follows it, its size and tilt slowly."""
    tilt = (now.angle - before.angle + 180) % 360 - 180
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
