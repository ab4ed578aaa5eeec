"""What can be tried on: the pieces that come with the package, and pictures of your own in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.errors import explained, said

_FOLDER = Path(__file__).parent / "pieces"


@dataclass(frozen=True, eq=False)
class Piece:
    """Something to try on: ``picture``, float32 [h, w, 4] in 0..1 (RGBA), and where anchors (see ``anchors.POINTS``)
    lie in it, in its pixels: ``across`` by column, ``down`` by row.

    ``at``: it is laid on each of these anchors, at its natural size, where they are seen, mirrored on the left one;
    ``across`` and ``down`` hold the anchor "" alone then, and it ``hangs`` straight down. ``unit``: how many of its
    pixels are as long as the way from between the eyes to the mouth. ``behind``: the region that lies in front of it;
    ``shadow``: how dark its shadow is, 0..1.
    """

    name: str
    picture: Tensor
    across: Mapping[str, float]
    down: Mapping[str, float]
    unit: float
    at: tuple[str, ...] = ()
    hangs: bool = False
    behind: str = "hair"
    shadow: float = 0.3
    extent: tuple[float, float, float, float] = field(default=(0, 0, 0, 0))  # left, top, right, bottom of what shows

    @cached_property
    def cover(self) -> Tensor:
        """The picture, its colours multiplied by its alpha."""
        return torch.cat([self.picture[..., :3] * self.picture[..., 3:], self.picture[..., 3:]], 2)


@cache
def _shipped() -> dict[str, dict]:
    return json.loads((_FOLDER / "pieces.json").read_text(encoding="utf-8"))


def piece_names() -> tuple[str, ...]:
    """The names of the pieces that come with the package.

    >>> piece_names()
    ('round glasses', 'sun glasses', 'hat', 'earrings', 'beard', 'face mask')
    """
    return tuple(_shipped())


def piece(what: str | Path | Image.Image | Tensor, *, like: str = "round glasses") -> Piece:
    """A piece to try on, for :func:`try_on`.

    ``what``: the name of one that comes with the package (see :func:`piece_names`), or a picture of your own with
    transparency: a file, a PIL image or a float tensor [h, w, 4] in 0..1. Your own is laid on as the shipped piece
    ``like`` is, its visible part where that one's is; crop it as that one is cropped. Raises ValueError for a name that
    is none and a picture without transparency, FileNotFoundError for a missing file.

    >>> piece("hat").name, piece(torch.eye(8)[..., None].expand(-1, -1, 4), like="hat").across.keys()
    ('hat', dict_keys(['right side', 'left side']))
    """
    if like not in _shipped():
        raise ValueError(f"there is no piece {said(repr(like))}: choose one of {', '.join(_shipped())}")
    if isinstance(what, str) and what in _shipped():
        return _loaded(what)
    if isinstance(what, str) and not Path(what).suffix:
        known = ", ".join(_shipped())
        raise ValueError(f"there is no piece {said(repr(what))}: choose one of {known}, or give the file of a picture")
    return _fitted(_rgba(what), _loaded(like))


@cache
def _loaded(name: str) -> Piece:
    known = dict(_shipped()[name])
    picture = _rgba(_FOLDER / known.pop("file"))
    known["at"] = tuple(known.get("at", ()))
    return Piece(name, picture, extent=_visible(picture), **known)


def _rgba(what: str | Path | Image.Image | Tensor) -> Tensor:
    """float32 [h, w, 4] in 0..1, some of it transparent and some not."""
    if isinstance(what, Tensor):
        if what.ndim != 3 or what.shape[2] != 4 or not what.is_floating_point() or 0 in what.shape:
            raise ValueError(f"a piece is a float tensor [h, w, 4] in 0..1 (RGBA), not {what.dtype} {list(what.shape)}")
        picture = what.detach().cpu().float().nan_to_num(0).clamp(0, 1)
    else:
        if not isinstance(what, Image.Image):
            pictures.load(what)  # says what is wrong with it
        with explained(f"{what} cannot be decoded"):
            opened = what if isinstance(what, Image.Image) else Image.open(what)
            picture = torch.from_numpy(np.array(opened.convert("RGBA"), dtype=np.float32) / 255)
    alpha = picture[..., 3]
    if not (alpha > _SHOWS).any() or alpha.min() > 0.99:
        raise ValueError("a piece to try on must be partly transparent: give a picture with an alpha channel, as a PNG")
    return picture


# Less alpha than this is nothing that shows.
_SHOWS = 0.02


def _visible(picture: Tensor) -> tuple[float, float, float, float]:
    rows, columns = ((picture[..., 3] > _SHOWS).any(axis).nonzero().flatten() for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _fitted(picture: Tensor, like: Piece) -> Piece:
    """Somebody's own picture in place of that of a piece."""
    ours, theirs = like.extent, _visible(picture)
    scale = (theirs[2] - theirs[0]) / (ours[2] - ours[0]), (theirs[3] - theirs[1]) / (ours[3] - ours[1])
    across = {name: theirs[0] + (x - ours[0]) * scale[0] for name, x in like.across.items()}
    # Seen from in front a pair of glasses may be higher or lower than ours: its middle is where ours has it.
    tall = scale[0] if len(like.down) == 1 else scale[1]
    middle = (ours[1] + ours[3]) / 2, (theirs[1] + theirs[3]) / 2
    down = {name: middle[1] + (y - middle[0]) * tall for name, y in like.down.items()}
    return replace(like, picture=picture, across=across, down=down, unit=like.unit * scale[0], extent=theirs)
