"""Edits that a caller may ask for: make-up, smoother skin, colours, another background. As ``faceparse edit``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from faceparse_core import edits
from faceparse_core import images as pictures
from faceparse_core.edits.several import BACKGROUNDS, PARTS, Changes, change
from faceparse_core.errors import number, said
from faceparse_core.parsing import Parsing
from faceparse_core.scale.asking import FACES
from faceparse_core.scale.records import png


@dataclass(frozen=True)
class Edits(Changes):
    """What is to be changed; ``faces``: as ``parse`` takes it."""

    faces: str = "auto"


def wanted(values: Mapping[str, object]) -> Edits:
    """The edits in the values of a request. Raises ValueError, with what is accepted."""
    unknown = sorted(set(values) - set(_CHECKS))
    if unknown:
        raise ValueError(f"there is no {said(', '.join(unknown))} to change: choose from image, {', '.join(_CHECKS)}")
    asked = Edits(**{name: _CHECKS[name](name, value) for name, value in values.items()})
    if asked.tips and not asked.hair:
        raise ValueError("tips is the second colour of hair: send both")
    if not asked:
        raise ValueError(
            f"nothing is to be changed: send a colour for {', '.join(PARTS)}, a look, smooth, or a background"
        )
    return asked


@torch.inference_mode()
def edited(parsing: Parsing, image: Tensor, asked: Edits) -> bytes:
    """The changed ``image``, [H, W, 3] as ``images.load`` gives it, as a PNG."""
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
    "background": _background,
    "radius": _share(25),
    "faces": FACES,
}
