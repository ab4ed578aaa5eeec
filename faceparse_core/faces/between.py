"""What lies between two frames of a video: the face where it must be, looking like those before and after."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from faceparse_core.faces.face import Face, wrapped
from faceparse_core.faces.windows import Look, resampled
from faceparse_core.rendering import Window


def face_between(before: Face, after: Face, share: float) -> Face:
    """The face at this ``share`` of the way from one frame to another: 0 is the one before, 1 the one after."""

    def mixed(a: float, b: float) -> float:
        return a + share * (b - a)

    width, height = (
        math.exp(mixed(math.log(a), math.log(b)))
        for a, b in ((before.width, after.width), (before.height, after.height))
    )
    x = mixed(before.x + before.width / 2, after.x + after.width / 2) - width / 2
    y = mixed(before.y + before.height / 2, after.y + after.height / 2) - height / 2
    turn = wrapped(after.angle - before.angle)
    return replace(
        before, x=round(x), y=round(y), width=max(1, round(width)), height=max(1, round(height)),
        angle=round(wrapped(before.angle + share * turn), 1), score=min(before.score, after.score),
        landmarks=(),
    )  # fmt: skip


def look_between(before: Look, after: Look, faces: tuple[Face, Face], share: float) -> Look:
    """Two looks at whole frames, each moved so that its face (of ``faces``) is where it is at this ``share`` of the
    way, and mixed."""
    there = face_between(*faces, share)
    first, second = (moved(look, face, there) for look, face in zip((before, after), faces, strict=True))
    return Look(torch.lerp(first.logits, resampled(second, first).logits, share), first.window)


def moved(look: Look, face: Face, there: Face) -> Look:
    """A look at a whole frame, shifted and scaled as its face is that goes from one place to another."""
    scale = math.sqrt(there.width * there.height / (face.width * face.height))
    x = there.x + there.width / 2 + scale * (look.window.x - face.x - face.width / 2)
    y = there.y + there.height / 2 + scale * (look.window.y - face.y - face.height / 2)
    return replace(look, window=Window(x, y, scale * look.window.width, scale * look.window.height))
