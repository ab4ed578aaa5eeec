"""Edits that a caller may ask for: colours of parts, and another background. As ``faceparse edit``."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from faceparse_core import edits, masks
from faceparse_core import images as pictures
from faceparse_core.errors import number, said
from faceparse_core.parsing import Parsing

PARTS = {"hair": "hair", "brows": "brows", "lips": "lips", "clothes": "clothing", "glasses": "eyeglasses"}
"""What takes a colour, and the region of its mask."""

BACKGROUNDS = ("blur", "transparent")


@dataclass(frozen=True)
class Edits:
    """The colour of each of ``PARTS``, and of the hair's ``tips``, laid on with ``strength`` in 0..1; the
    ``background``: one of ``BACKGROUNDS`` or a colour; ``radius`` of its blur in percent of the longer side. ``faces``:
    as ``parse`` takes it."""

    hair: str | None = None
    brows: str | None = None
    lips: str | None = None
    clothes: str | None = None
    glasses: str | None = None
    tips: str | None = None
    strength: float = 1.0
    background: str | None = None
    radius: float = 2.0
    faces: str = "auto"


def wanted(values: Mapping[str, object]) -> Edits:
    """The edits in the values of a request. Raises ValueError, with what is accepted."""
    unknown = sorted(set(values) - set(_CHECKS))
    if unknown:
        raise ValueError(f"there is no {said(', '.join(unknown))} to change: choose from image, {', '.join(_CHECKS)}")
    asked = Edits(**{name: _CHECKS[name](name, value) for name, value in values.items()})
    if asked.tips and not asked.hair:
        raise ValueError("tips is the second colour of hair: send both")
    if not any(getattr(asked, part) for part in (*PARTS, "background")):
        raise ValueError(f"nothing is to be changed: send a colour for {', '.join(PARTS)}, or a background")
    return asked


@torch.inference_mode()
def edited(parsing: Parsing, image: Tensor, asked: Edits) -> bytes:
    """The changed ``image``, [H, W, 3] as ``images.load`` gives it, as a PNG: colours first, the background last."""
    picture = (image.float() / 255 if image.dtype == torch.uint8 else image)[None]
    for part, region in PARTS.items():
        if colour := getattr(asked, part):
            tips = asked.tips if part == "hair" else None
            picture = edits.recolour(
                picture, _mask(picture, parsing, region), colour, tips=tips, strength=asked.strength
            )
    if asked.background:
        person = _mask(picture, parsing, "person")
        if asked.background == "transparent":
            picture = masks.cut_out(picture, person)
        elif asked.background == "blur":
            picture = edits.blur_background(picture, person, radius=asked.radius)
        else:
            picture = edits.replace_background(picture, person, edits.rgb(asked.background))
    file = io.BytesIO()
    pictures.to_pil(picture[0]).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _mask(picture: Tensor, parsing: Parsing, region: str) -> Tensor:
    """The soft mask of a region, its edge where the picture's is; hair by its strands."""
    one_head = region == "hair" and len(parsing.faces[0]) == 1
    hair = region in ("hair", "person")
    return masks.refine(picture, parsing.mask(region, soft=True), hair=hair, method="network" if one_head else "guided")


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


def _share(most: float) -> Callable[[str, object], float]:
    def check(name: str, value: object) -> float:
        with contextlib.suppress(ValueError):  # what is no number is told of below
            value = float(value) if isinstance(value, str) and len(value) < 20 else value
        return number(name, value, 0, most)

    return check


def _faces(name: str, value: object) -> str:
    if value not in ("auto", "image"):
        raise ValueError(f"{name} must be auto or image, not {said(repr(value))}")
    return str(value)


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys((*PARTS, "tips"), _colour),
    "strength": _share(1),
    "background": _background,
    "radius": _share(25),
    "faces": _faces,
}
