"""Make-up: what a look says, put on each face of a picture, in proportion to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceparse_core.edits.colours import USUAL_SKIN, lab
from faceparse_core.edits.complexion import Complexion, complexion
from faceparse_core.edits.eye_makeup import colour_irises, fill_brows, line_eyes, shade_lids
from faceparse_core.edits.eyes import eyes
from faceparse_core.edits.look import Blush, Foundation, Look, look
from faceparse_core.edits.mouth_makeup import paint_lips, whiten_teeth
from faceparse_core.edits.sitter import Sitter, each_sitter
from faceparse_core.errors import enough_memory, number
from faceparse_core.faces import Face
from faceparse_core.images import Images

# Cells of the skin's grid, in units; blotches are smaller than this, and light and shade of a face larger.
_CELL, _BLOTCH, _SHAPE = 0.02, 0.05, 0.3
# Blush is strongest at the apple of the cheek (u, v); its reach across and along the cheekbone, and how that rises.
_APPLE, _BONE, _REACH, _ALONG, _RISE = 0.62, 0.43, 0.17, 0.3, 0.5


@enough_memory("the make-up cannot be put on")
def make_up(
    images: Images,
    labels: Tensor,
    faces: Sequence[Sequence[Face]],
    wanted: str | Path | Mapping[str, Any] | Look,
    *,
    strength: float = 1.0,
    face: int | str = "all",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The images with the faces made up, float32 [B, H, W, 3] in 0..1 on the CPU.

    ``images``: in any form that ``parse`` takes; ``labels``: the label map of each, uint8 [B, H, W]; ``faces``: of each
    its faces, as a ``Parsing`` has them. ``wanted``: a look, as :func:`look` takes it. ``strength`` 0..1 times that of
    all its steps. ``face``: whose: "all", "largest" or an index.

    Lines and edges follow each face's size, and are told by its labels: what is hidden (lids behind glasses, lips
    behind a hand) gets none. Changed are skin, nose, lips, mouth, eyes and brows alone; all else stays as it is, to the
    bit. Raises ValueError for images, labels and faces that do not go together, and for what is no look.

    >>> picture, labels = torch.full((60, 60, 3), 0.6), torch.zeros(60, 60, dtype=torch.uint8)
    >>> labels[40:44, 22:38] = 12
    >>> red = make_up(picture, labels, [[Face(0, 15, 10, 30, 40)]], {"lipstick": {"colour": "#b3121d"}})[0]
    >>> bool(red[42, 30, 1] < 0.5), torch.equal(red[:30], picture[:30])
    (True, True)
    """
    number("strength", strength, 0, 1)
    chosen = look(wanted)

    def work(sitter: Sitter) -> None:
        put_on(sitter, chosen, strength)

    return each_sitter(images, labels, faces, face, work, progress)


def put_on(sitter: Sitter, chosen: Look, strength: float) -> None:
    """The steps of a look, in the order of an artist."""
    if not strength or not chosen:
        return
    if chosen.teeth:
        whiten_teeth(sitter, chosen.teeth.strength * strength)
    seen = list(eyes(sitter)) if chosen.irises or chosen.eyeshadow or chosen.eyeliner else []
    if chosen.irises:
        colour_irises(sitter, seen, chosen.irises, strength)
    if chosen.foundation or chosen.blush:
        _skin(sitter, chosen.foundation, chosen.blush, strength)
    if chosen.eyeshadow:
        shade_lids(sitter, seen, chosen.eyeshadow, strength)
    if chosen.brows:
        fill_brows(sitter, chosen.brows, strength)
    if chosen.eyeliner:
        line_eyes(sitter, seen, chosen.eyeliner, strength)
    if chosen.lipstick or chosen.lip_liner:
        paint_lips(sitter, chosen.lipstick, chosen.lip_liner, strength)


def _skin(sitter: Sitter, foundation: Foundation | None, blush: Blush | None, strength: float) -> None:
    skin = complexion(sitter, _CELL)
    if skin is None:
        return
    shift = torch.zeros_like(skin.colours)
    if foundation:
        shift += _even(skin, foundation) * (foundation.strength * strength)
    if blush:
        shift += _blush(skin, lab(blush.colour)) * (blush.strength * strength)
    skin.lay(shift * skin.within)


def _even(skin: Complexion, foundation: Foundation) -> Tensor:
    """The change to an even tone: colour to that of the whole face, blotches of light to what is around them."""
    blurred = skin.around(skin.colours, _BLOTCH)
    wide = skin.around(blurred, _SHAPE)
    change = wide - blurred
    change[:, :1] *= 0.5
    change[:, 1:] = 0.75 * (skin.tone[1:].view(1, 2, 1, 1) - blurred[:, 1:])
    if foundation.colour:
        change += (lab(foundation.colour) - skin.tone).view(1, 3, 1, 1)
    return change


def _blush(skin: Complexion, colour: Tensor) -> Tensor:
    """The change to a colour on the cheekbones, light and shade kept."""
    sitter = skin.sitter
    rows, columns = (slice(0, size) for size in sitter.labels.shape)
    shape = sitter.drawn(("left cheek", "right cheek"), skin.factor)
    u, v = sitter.place(rows, columns, skin.factor)
    # Along the cheekbone, which rises outwards.
    rise = _BONE - _RISE * (u.abs() - _APPLE)
    near = torch.exp(-(((v - rise) / _REACH) ** 2) - (((u.abs() - _APPLE) / _ALONG) ** 2))
    where = skin.around(shape[None, None] * near, 0.1)
    # What the colour is beside skin in white light, so that it fits the light that there is; and never lighter.
    change = colour - lab(USUAL_SKIN)
    change[0] = 0.6 * min(0.0, float(colour[0] - skin.tone[0]))
    return change.view(1, 3, 1, 1) * where
