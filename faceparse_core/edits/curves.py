"""Figures of a face over the frames of a video: blinks, tables, a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceparse_core.edits.figures import NOTE
from faceparse_core.errors import number

# An eye blinks where it is less open than this share of what it usually is, and no longer than so many seconds.
_BLINK, _LONGEST = 0.62, 0.8


def blinks(openness: Sequence[float | None], fps: float = 25.0) -> list[tuple[int, int]]:
    """The blinks of a face over frames: (first, last) frame of each.

    ``openness``: of each frame how open its eyes are, ``eyes["open"]``, None where that is not known. A blink is where
    they are much less open than usual, for less than a second: those closed longer are asleep, or look down.

    >>> blinks([0.4, 0.41, 0.12, 0.1, 0.39, 0.4, None, 0.4])
    [(2, 3)]
    """
    number("fps", fps, 0.1, 10_000)
    known = [value for value in openness if value is not None]
    if len(known) < 3:
        return []
    level = _BLINK * float(np.quantile(known, 0.7))
    found, start = [], None
    for i, value in enumerate([*openness, None]):
        shut = value is not None and value < level
        if shut and start is None:
            start = i
        elif not shut and start is not None:
            if i - start <= max(1, round(_LONGEST * fps)):
                found.append((start, i - 1))
            start = None
    return found


def blinks_of(
    figures: Sequence[Sequence[Mapping[str, Any]]], *, face: int = 0, fps: float = 25.0
) -> list[tuple[int, int]]:
    """The ``blinks`` of one face in figures of :func:`face_figures`, with an image for each frame.

    >>> blinks_of([[{"index": 0, "eyes": {"open": value}}] for value in (0.4, 0.41, 0.1, 0.39)])
    [(2, 2)]
    """
    return blinks([one["eyes"]["open"] if one else None for one in _of_face(figures, face)], fps)


def _of_face(figures: Sequence[Sequence[Mapping[str, Any]]], face: int) -> list[Mapping[str, Any] | None]:
    """Of each frame the figures of the face of this index, as tracking keeps it; None where it is not there."""
    return [next((one for one in faces if one["index"] == face), None) for faces in figures]


def as_csv(figures: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str] = ()) -> str:
    """The figures of images as CSV: a line for each face of each. ``names``: what the images are called; else numbers.

    >>> as_csv([[{"index": 0, "box": [1, 2, 3, 4], "eyes": {"open": 0.4}}]])
    'image,index,box x,box y,box width,box height,eyes open\\r\\n0,0,1,2,3,4,0.4\\r\\n'
    """
    rows = []
    for i, faces in enumerate(figures):
        for one in faces:
            rows.append({"image": names[i] if names else i, **dict(_flat(one))})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    written = io.StringIO()
    writer = csv.DictWriter(written, columns or ["image"], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _flat(figures: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in figures.items():
        name = f"{before} {key}".strip()
        if isinstance(value, Mapping):
            flat += _flat(value, name)
        elif isinstance(value, (list, tuple)):
            letters = ("x", "y", "width", "height") if key == "box" else ("L", "a", "b")
            flat += [(f"{name} {letter}", one) for letter, one in zip(letters, value, strict=True)]
        else:
            flat.append((name, "" if value is None else value))
    return flat


# What a plot shows: title, the path to the figure, its least and greatest value, its colour.
_CURVES = (
    ("eyes open", ("eyes", "open"), 0.0, 0.6, (40, 110, 190)),
    ("mouth open", ("mouth", "open"), 0.0, 0.8, (190, 50, 90)),
    ("smile", ("mouth", "smile"), -0.2, 0.3, (200, 120, 30)),
    ("tilt", ("tilt",), -45.0, 45.0, (70, 140, 80)),
    ("yaw", ("yaw",), -60.0, 60.0, (120, 80, 170)),
    ("skin, ITA", ("skin", "ita"), -60.0, 90.0, (150, 100, 60)),
)


def plot(figures: Sequence[Sequence[Mapping[str, Any]]], *, face: int = 0, fps: float = 25.0) -> Image.Image:
    """The figures of one face over frames as curves, blinks marked; a picture of 1000 by 830 pixels.

    ``figures``: of :func:`face_figures`, with an image for each frame; ``face``: the index of whose, as tracking keeps
    it; where that face is not there, the curves are broken.

    >>> plot([[]]).size
    (1000, 830)
    """
    ours = _of_face(figures, face)
    left, right, top, tall, gap = 120, 980, 60, 104, 18
    picture = Image.new("RGB", (1000, top + len(_CURVES) * (tall + gap) + 38), "white")
    on, font, small = ImageDraw.Draw(picture), ImageFont.load_default(20), ImageFont.load_default(13)
    shut = blinks_of(figures, face=face, fps=fps)
    on.text((left, 12), f"face {face}: {len(ours)} frames, {len(shut)} blink{'s' * (len(shut) != 1)}", "black", font)
    on.text((left, 38), NOTE, (110, 110, 110), small)

    def across(frame: float) -> float:
        return left + (right - left) * frame / max(1, len(ours) - 1)

    for row, (title, path, least, most, colour) in enumerate(_CURVES):
        upper = top + row * (tall + gap)
        for first, last in shut:
            on.rectangle([across(first - 0.5), upper, across(last + 0.5), upper + tall], fill=(225, 232, 242))
        on.rectangle([left, upper, right, upper + tall], outline=(190, 190, 190))
        on.text((8, upper + tall / 2 - 8), title, colour, font=ImageFont.load_default(15))
        for value, y in ((most, upper), (least, upper + tall - 14)):
            on.text((left - 6, y), f"{value:g}", (110, 110, 110), font=small, anchor="ra")
        line: list[tuple[float, float]] = []
        for frame, one in enumerate([*ours, None]):
            value = _at(one, path)
            if value is None:
                _draw_line(on, line, colour)
                line = []
            else:
                share = min(max((value - least) / (most - least), 0.0), 1.0)
                line.append((across(frame), upper + tall * (1 - share)))
    lower = top + len(_CURVES) * (tall + gap)
    for frame in sorted({0, (len(ours) - 1) // 2, max(0, len(ours) - 1)}):
        on.text((across(frame), lower - 8), f"{frame}", (110, 110, 110), font=small, anchor="ma")
    return picture


def _at(figures: Mapping[str, Any] | None, path: Sequence[str]) -> float | None:
    value: Any = figures
    for key in path:
        if value is None:
            return None
        value = value[key]
    return value


def _draw_line(on: ImageDraw.ImageDraw, line: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    if len(line) > 1:
        on.line(line, fill=colour, width=2, joint="curve")
    for x, y in line[:1] if len(line) == 1 else ():
        on.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
