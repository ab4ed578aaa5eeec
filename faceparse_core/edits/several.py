"""Several edits of one picture, as the command line and the endpoint are asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from faceparse_core import masks
from faceparse_core.edits.backdrop import blur_background, replace_background
from faceparse_core.edits.look import Look
from faceparse_core.edits.makeup import make_up
from faceparse_core.edits.privacy import hidden_area, hide
from faceparse_core.edits.recolour import recolour
from faceparse_core.edits.skin import smooth_skin
from faceparse_core.edits.wardrobe import Piece
from faceparse_core.edits.wearing import try_on
from faceparse_core.faces import Face
from faceparse_core.labels import resolve

PARTS = {"hair": "hair", "brows": "brows", "lips": "lips", "clothes": "clothing", "glasses": "eyeglasses"}
"""What takes a colour, and the region of its mask."""

BACKGROUNDS = ("blur", "transparent")
"""Backgrounds that are neither a colour nor a picture."""

# What is smaller than this share of the smallest face's box is no person.
_NO_PERSON = 0.25


class Seen(Protocol):
    """What is known of a single picture: a ``Parsing``."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def faces(self) -> Sequence[Sequence[Face]]: ...
    def mask(self, region: str, *, soft: bool = False, face: int | str = "all") -> Tensor: ...


@dataclass(frozen=True)
class Changes:
    """What is to be changed, None where nothing is.

    ``smooth`` 0..1: how much the skin is smoothed, and spots, shine and shadows under the eyes taken back. ``look``:
    everybody's make-up. The colour of each of ``PARTS``, and of the hair's ``tips``; these and the look are put on with
    ``strength`` in 0..1. ``wear``: what everybody tries on, the later over the earlier. ``privacy``: one of ``WAYS`` in
    which everybody's ``area`` (one of ``AREAS``) is hidden, but not that of the face to ``spare``: "largest" or an
    index. ``background``: one of ``BACKGROUNDS``, a colour, or the path of a picture; ``radius`` of its blur in percent
    of the longer side.
    """

    hair: str | None = None
    brows: str | None = None
    lips: str | None = None
    clothes: str | None = None
    glasses: str | None = None
    tips: str | None = None
    look: Look | None = None
    smooth: float = 0.0
    strength: float = 1.0
    wear: Sequence[Piece] = ()
    privacy: str | None = None
    area: str = "face"
    spare: int | str | None = None
    background: str | Path | None = None
    radius: float = 2.0

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in (*PARTS, "look", "smooth", "wear", "privacy", "background"))


def change(image: Tensor, seen: Seen, wanted: Changes) -> Tensor:
    """An image, float32 [1, H, W, 3] in 0..1, of which is ``seen`` what was there at first, with what is ``wanted``:
    the skin first, make-up on it, then colours, what is tried on, what is hidden, the background last. [1, H, W, 3], or
    4 with a transparent background. Raises ValueError where nobody can wear what is to be tried on."""
    if wanted.smooth:
        much = wanted.smooth
        image = smooth_skin(image, seen.labels, seen.faces, smooth=much, spots=much, shine=much, under_eyes=much)
    if wanted.look:
        image = make_up(image, seen.labels, seen.faces, wanted.look, strength=wanted.strength)
    for part, region in PARTS.items():
        if colour := getattr(wanted, part):
            tips = wanted.tips if part == "hair" else None
            image = recolour(image, refined(image, seen, region), colour, tips=tips, strength=wanted.strength)
    person = refined(image, seen, "person") if wanted.background else None
    for piece in wanted.wear:
        front = refined(image, seen, piece.behind) if piece.behind else None
        image, cover = try_on(image, piece, seen.labels, seen.faces, front=front)
        person = person if person is None else torch.maximum(person, cover)  # a hat stands out from the person
    if wanted.privacy:
        others = wanted.spare is not None
        face = "all" if wanted.spare is None else wanted.spare
        area = hidden_area(seen.labels, seen.faces, area=wanted.area, face=face, others=others)
        image = hide(image, area, seen.faces, way=wanted.privacy, labels=seen.labels)
    if wanted.background and person is not None:
        if wanted.background == "transparent":
            return masks.cut_out(image, person)
        if wanted.background == "blur":
            return blur_background(image, person, radius=wanted.radius)
        return replace_background(image, person, wanted.background)
    return image


def refined(image: Tensor, seen: Seen, region: str, face: int | str = "all") -> Tensor:
    """The soft mask of a region, float32 [1, H, W], its edge where the image's is; hair by its strands, that of one
    head by the network that knows heads.

    All 0 where nothing is more likely the region than not: what is left of a hat in the mask of somebody without one
    would be coloured. Of a region that people are seen by (person, head), parts that are much smaller than any face are
    left out: they are bits of the background.
    """
    ids, hair = set(resolve(region).ids), set(resolve("hair").ids)
    one_head = face != "all" or len(seen.faces[0]) == 1
    method = "network" if ids == hair and one_head else "guided"
    mask = seen.mask(region, soft=True, face=face)
    if not bool((mask >= 0.5).any()):
        return torch.zeros_like(mask)
    if set(resolve("skin").ids) <= ids and seen.faces[0]:
        least = min(one.width * one.height for one in seen.faces[0])
        mask = masks.keep_parts(mask, smallest=round(_NO_PERSON * least))
    return masks.refine(image, mask, hair=hair <= ids, method=method)
