"""What a caller may ask for: pictures and what is to be told of them, checked. Words for the caller in every error."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from faceparse_core.errors import said
from faceparse_core.labels import resolve

LABELS_AS = ("png", "rle", "none")
"""How the label map is told: an indexed PNG, COCO's run lengths of each label, or not at all."""

_MOST_REGIONS = 16
# Longer texts are none of ours; the longest region that names all labels has about 250 letters.
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class Limits:
    """The most that is taken of one caller: bytes of a request, pixels of a picture, pictures in a request, and the
    seconds that sending the request and answering it may take, each."""

    bytes: int = 32 * 1024 * 1024
    pixels: int = 40_000_000
    pictures: int = 16
    seconds: float = 60.0


@dataclass(frozen=True)
class Options:
    """What is told of each picture, beside its figures.

    ``labels``: one of ``LABELS_AS``. ``regions``: of each a mask, ``soft`` or hard, of one ``face`` ("all", "largest",
    an index). ``overlay``: the picture with its labels in colour. ``faces``: "auto" or "image", as ``parse`` takes it.
    """

    labels: str = "png"
    regions: tuple[str, ...] = ()
    soft: bool = False
    face: int | str = "all"
    overlay: bool = False
    faces: str = "auto"


_Options = TypeVar("_Options")


@dataclass(frozen=True)
class Asked(Generic[_Options]):
    """A request: pictures, each a whole file in bytes, and what is to be told of them (``Options``) or changed."""

    pictures: list[bytes]
    options: _Options


Check = Callable[[Mapping[str, object]], _Options]
"""What makes options of the values of a request; ValueError for what cannot be asked."""


def from_json(body: bytes, limits: Limits, check: Check[_Options]) -> Asked[_Options]:
    """A request in JSON: ``image``, a picture's bytes in base64, or ``images``, a list of these; and the options, which
    ``check`` makes of the rest.

    Raises ValueError, with what is accepted, for all that is no such request.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON: {said(error)}") from error
    if not isinstance(values, dict):
        raise ValueError('the body must be a JSON object such as {"image": "…base64…"}')
    values = dict(values)
    texts = values.pop("images", [])
    if not isinstance(texts, list):
        raise ValueError("images must be a list of pictures in base64")
    if "image" in values:
        texts = [values.pop("image"), *texts]
    check_count(len(texts), limits)
    pictures = [from_base64(text, f"images[{i}]" if len(texts) > 1 else "the image") for i, text in enumerate(texts)]
    return Asked(pictures, check(values))


def check_count(count: int, limits: Limits) -> None:
    """Raises ValueError if so many pictures are none or too many."""
    if not count:
        raise ValueError("there is no picture in the request: send it as image, or several as images")
    if count > limits.pictures:
        raise ValueError(f"{count} pictures in one request are too many: at most {limits.pictures} are taken")


def options(values: Mapping[str, object]) -> Options:
    """The options in the values of a request, whose texts may stand for numbers and yes or no (as forms have it)."""
    unknown = sorted(set(values) - set(_CHECKS))
    if unknown:
        known = ", ".join(("image", "images", *_CHECKS))
        raise ValueError(f"there is no {said(', '.join(unknown))} to ask for: choose from {known}")
    return Options(**{name: _CHECKS[name](name, value) for name, value in values.items()})


def from_base64(text: object, name: str) -> bytes:
    """The bytes of a picture's file in base64; ``name``: what it is called in an error."""
    wanted = "send the bytes of the picture's file in base64; paths and addresses are not opened"
    if not isinstance(text, str):
        raise ValueError(f"{name} is no text: {wanted}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: letters beyond ASCII
        raise ValueError(f"{name} is no base64 ({said(error)}): {wanted}") from error
    if not data:
        raise ValueError(f"{name} is empty: {wanted}")
    return data


def _one_of(choices: tuple[str, ...], name: str, value: object) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {said(repr(value))}")
    return str(value)


def _yes_or_no(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} must be true or false, not {said(repr(value))}")
    return value in ("true", "1")


def _face(name: str, value: object) -> int | str:
    if value in ("all", "largest"):
        return str(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 100_000:
        raise ValueError(f"{name} must be 'all', 'largest' or the index of a face from 0 on, not {said(repr(value))}")
    return value


def _regions(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError('regions must be a list of texts, such as ["hair", "face - eyes"]')
    if len(value) > _MOST_REGIONS:
        raise ValueError(f"{len(value)} regions are too many: at most {_MOST_REGIONS} are taken")
    for text in value:
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"a region of {len(text)} letters is too long: at most {_LONGEST_TEXT} are taken")
        resolve(text)
    return tuple(value)


FACES = partial(_one_of, ("auto", "image"))
"""The check of how faces are found."""

FACE = _face
"""The check of whose face is meant."""

_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "labels": partial(_one_of, LABELS_AS),
    "regions": _regions,
    "soft": _yes_or_no,
    "face": _face,
    "overlay": _yes_or_no,
    "faces": FACES,
}
