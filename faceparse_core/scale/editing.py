"""Edits that a caller may ask for: make-up, smoother skin, colours, something to try on, faces hidden, another
background. As ``faceparse edit``, but for files: no path and no address of a caller's is opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faceparse_core import edits
from faceparse_core import images as pictures
from faceparse_core.edits.several import BACKGROUNDS, PARTS, Changes, change
from faceparse_core.errors import number, said
from faceparse_core.parsing import Parsing
from faceparse_core.scale.asking import FACE, FACES, from_base64
from faceparse_core.scale.records import png

# More cannot be tried on in one request, and a drawing needs no more pixels.
MOST_PIECES, _MOST_PIXELS = 8, 4_000_000


@dataclass(frozen=True)
class Edits(Changes):
    """What is to be changed; ``faces``: as ``parse`` takes it.

    ``worn``, in place of ``wear``: names of pieces, and files of pictures in bytes, to be decoded when it is their
    turn; pictures are laid on as the piece ``like`` is.
    """

    worn: tuple[str | bytes, ...] = ()
    like: str = "round glasses"
    faces: str = "auto"

    def __bool__(self) -> bool:
        return bool(self.worn) or super().__bool__()


def wanted(values: Mapping[str, object]) -> Edits:
    """The edits in the values of a request. Raises ValueError, with what is accepted."""
    unknown = sorted(set(values) - set(_CHECKS))
    if unknown:
        raise ValueError(f"there is no {said(', '.join(unknown))} to change: choose from image, {', '.join(_CHECKS)}")
    checked = {name: _CHECKS[name](name, value) for name, value in values.items()}
    checked["worn"] = checked.pop("wear", ())
    asked = Edits(**checked)
    for name, needed in (("area", "privacy"), ("spare", "privacy"), ("like", "wear")):
        if name in values and needed not in values:
            raise ValueError(f"{name} says more of {needed}: send both")
    if asked.tips and not asked.hair:
        raise ValueError("tips is the second colour of hair: send both")
    if not asked:
        raise ValueError(
            f"nothing is to be changed: send a colour for {', '.join(PARTS)}, a look, smooth, something to wear, "
            "privacy, or a background"
        )
    return asked


@torch.inference_mode()
def edited(parsing: Parsing, image: Tensor, asked: Edits) -> bytes:
    """The changed ``image``, [H, W, 3] as ``images.load`` gives it, as a PNG.

    Raises ValueError for a picture to try on that is none, and where nobody can wear it.
    """
    asked = replace(asked, wear=[_piece(one, asked.like) for one in asked.worn])
    return png(pictures.to_pil(change(pictures.as_float(image)[None], parsing, asked)[0]))


def _colour(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError(f"{name} must be a colour such as '#7a1f2b' or 'navy', not {said(repr(value))}")
    try:
        edits.rgb(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return value


def _background(name: str, value: object) -> str:
    return value if isinstance(value, str) and value in BACKGROUNDS else _colour(name, value)


def _look(name: str, value: object) -> edits.Look:
    """One that is shipped, by its name, or in JSON the steps of one: never a file."""
    if not isinstance(value, Mapping) and value not in edits.LOOKS:
        raise ValueError(
            f"{name} must be one of {', '.join(edits.LOOKS)}, or an object of steps, not {said(repr(value))}"
        )
    return edits.look(value)


def _worn(name: str, value: object) -> tuple[str | bytes, ...]:
    """Names of pieces and pictures: the bytes of files that a form brings, or objects with ``image`` in base64."""
    several = value if isinstance(value, (list, tuple)) else [value]
    if len(several) > MOST_PIECES:
        raise ValueError(f"{len(several)} things to wear are too many: at most {MOST_PIECES} are taken")
    return tuple(_one_worn(name, one) for one in several)


def _one_worn(name: str, value: object) -> str | bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping) and set(value) == {"image"}:
        return from_base64(value["image"], f"the image of {name}")
    return _named(edits.piece_names(), name, value, " or a picture with transparency: a file in a form, in JSON "
                  '{"image": "…base64…"}')  # fmt: skip


def _piece(what: str | bytes, like: str) -> edits.Piece:
    if isinstance(what, str):
        return edits.piece(what)
    return edits.piece(pictures.opened(what, "the picture to wear", most_pixels=_MOST_PIXELS), like=like)


def _named(choices: tuple[str, ...], name: str, value: object, more: str = "") -> str:
    """One of these; as in the command line with hyphens for spaces, too."""
    plain = value.replace("-", " ") if isinstance(value, str) else value
    if plain not in choices:
        known = ", ".join(one.replace(" ", "-") for one in choices)
        raise ValueError(f"{name} must be one of {known}{more}, not {said(repr(value))}")
    return str(plain)


def _spare(name: str, value: object) -> int | str:
    face = FACE(name, value)
    if face == "all":
        raise ValueError(f"{name} is the face that stays: largest, or an index; without it all are hidden")
    return face


def _share(most: float) -> Callable[[str, object], float]:
    def check(name: str, value: object) -> float:
        with contextlib.suppress(ValueError):  # what is no number is told of below
            value = float(value) if isinstance(value, str) and len(value) < 20 else value
        return number(name, value, 0, most)

    return check


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys((*PARTS, "tips"), _colour),
    "look": _look,
    "smooth": _share(1),
    "strength": _share(1),
    "wear": _worn,
    "like": partial(_named, edits.piece_names()),
    "privacy": partial(_named, edits.WAYS),
    "area": partial(_named, edits.AREAS),
    "spare": _spare,
    "background": _background,
    "radius": _share(25),
    "faces": FACES,
}
