"""How much each edit flickers over a clip with ``track``, against the mask that it follows.

``python -m benchmarks.flicker [--picture samples/closeup.jpg] [--frames 12] [--threads 2] [--only recolour,…]``

The clip: a picture, panned by one pixel across and down each frame, with a sensor's noise (a deviation of 2/255) in
each. It is parsed with ``track``, and its masks are refined, as noisy as it is. The edits are laid on the frames
without noise, so that grain, which smoothing takes away and new colours raise, is not taken for flicker. Everything is
moved back by the pan: in a steady edit nothing moves.

Flicker is the mean of the absolute second difference over time, within four pixels of the mask's edge. That of the edit
is compared with that of the mask times the edit's contrast there: |edited - original| as it is within the mask beside
(recolour), the most of it within four pixels (what follows labels; its mask is that of these labels, for what is tried
on the face's, for a hat the head's), or |background - person|, told by the colours on either side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faceparse_core import FaceParser, Parsing, edits, masks
from faceparse_core.edits.several import refined

_SAMPLE = Path(__file__).parents[1] / "samples" / "closeup.jpg"
_SIDE, _NOISE = 512, 2 / 255
_EYES = {"colour": "#7a5238", "crease": "#3b2415", "strength": 0.8}
_LINER = {"colour": "#0d0b0c", "strength": 0.9}
_LIPSTICK = {"colour": "#8e1b2e", "strength": 0.9}
_BLUSH = {"colour": "#d66a7e", "strength": 0.8}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--picture", type=Path, default=_SAMPLE)
    arguments.add_argument("--frames", type=int, default=12)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--only", default="")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    clean, noisy = _clip(args.picture, args.frames)
    parsing = FaceParser("lite", "cpu").parse(noisy, track=True)
    for name, (mask, edit) in _works(clean, noisy, parsing).items():
        if not args.only or any(one in name for one in args.only.split(",")):
            print(f"{name}: {_told(mask(), clean, *edit())}", flush=True)


def _clip(path: Path, frames: int) -> tuple[Tensor, Tensor]:
    """The frames, float32 [B, H, W, 3], without noise and with it."""
    side = _SIDE + frames - 1
    picture = torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)))
    clean = torch.stack([picture[t : t + _SIDE, t : t + _SIDE] for t in range(frames)]).float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * _NOISE
    return clean, ((clean + noise).clamp(0, 1) * 255).round() / 255


_Edit = Callable[[], tuple[Tensor, ...]]


def _works(clean: Tensor, noisy: Tensor, parsing: Parsing) -> dict[str, tuple[Callable[[], Tensor], _Edit]]:
    """Of each edit the mask that it follows, and the edited frames, with their contrast where it is told here."""

    def refined_mask(region: str) -> Tensor:
        return torch.cat([refined(noisy[i : i + 1], parsing[i], region) for i in range(len(noisy))])

    def recolour(region: str, colour: str) -> tuple[Callable, _Edit]:
        mask = refined_mask(region)

        def work() -> tuple[Tensor, Tensor]:
            edited = edits.recolour(clean, mask, colour)
            whole = (mask >= 0.99).float()
            change, much = (F.avg_pool2d(one, 25, 1, 12) for one in ((edited - clean).abs().mean(3) * whole, whole))
            return edited, change / much.clamp(min=1e-3)

        return lambda: mask, work

    def background(edit: Callable[[Tensor, Tensor], Tensor], behind: Callable[[], Tensor]) -> tuple[Callable, _Edit]:
        return lambda: person, lambda: (edit(clean, person), (behind() - clean).abs().mean(3))

    def by_labels(region: str, edit: Callable[..., Tensor], *args: object, **options: object) -> tuple[Callable, _Edit]:
        return partial(parsing.mask, region), lambda: (edit(clean, labels, faces, *args, **options),)

    def look(region: str, **steps: dict) -> tuple[Callable, _Edit]:
        return by_labels(region, edits.make_up, steps)

    def wear(name: str) -> tuple[Callable, _Edit]:
        what = edits.piece(name)
        front = refined_mask(what.behind) if what.behind else None
        region = "head" if name == "hat" else "face"  # by whose edges it is laid on
        return by_labels(region, lambda *given: edits.try_on(given[0], what, *given[1:], front=front)[0])

    def hide(way: str) -> tuple[Callable, _Edit]:
        return lambda: area, lambda: (edits.hide(clean, area, faces, way=way, labels=labels),)

    labels, faces = parsing.labels, parsing.faces
    area, person = edits.hidden_area(labels, faces), refined_mask("person")
    return {
        "recolour, hair to copper": recolour("hair", "#b5562b"),
        "recolour, hair to platinum": recolour("hair", "#e8dcc4"),
        "recolour, lips": recolour("lips", "#6e1436"),
        "make-up, lipstick": look("lips", lipstick=_LIPSTICK),
        "make-up, lids": look("eyes", eyeshadow=_EYES),
        "make-up, eyeliner": look("eyes", eyeliner=_LINER),
        "make-up, brows": look("brows", brows={"strength": 0.8}),
        "make-up, skin": look("skin", foundation={"strength": 0.8}, blush=_BLUSH),
        "skin": by_labels("skin + nose", edits.smooth_skin, smooth=0.6),
        "background, blur": background(edits.blur_background, lambda: masks.foreground(clean, 1 - person)),
        "background, white": background(partial(edits.replace_background, new="white"), lambda: torch.ones(())),
        **{f"privacy, {way}": hide(way) for way in edits.WAYS},
        **{f"try-on, {name}": wear(name) for name in edits.piece_names()},
    }


def _told(mask: Tensor, clean: Tensor, edited: Tensor, contrast: Tensor | None = None) -> str:
    """``contrast``: [B, H, W], how much is changed where the mask is whole."""
    if contrast is None:
        contrast = F.max_pool2d((edited - clean).abs().mean(3), 9, 1, 4)
    mask, edited, contrast = _still(mask), _still(edited), _still(contrast).mean(0)
    zone = _edge(mask)
    of_mask, of_edit = _second(mask), _second(edited).mean(2)
    times = of_edit[zone].mean() / (of_mask * contrast)[zone].mean()
    here = contrast[zone].mean() * 255
    return f"{times:.2f} times that of its mask ({of_mask[zone].mean():.3f}, contrast {here:.0f}/255)"


def _still(frames: Tensor) -> Tensor:
    """What all frames show, [B, h, w, ...], moved back by the pan."""
    spare = len(frames) - 1
    side = frames.shape[1] - spare
    starts = [spare - t for t in range(len(frames))]
    return torch.stack([one[at : at + side, at : at + side] for one, at in zip(frames, starts, strict=True)])


def _second(frames: Tensor) -> Tensor:
    """The mean absolute second difference over time."""
    return frames.diff(n=2, dim=0).abs().mean(0)


def _edge(mask: Tensor) -> Tensor:
    """What is near to the edge of the mean mask."""
    inside = (mask.mean(0) >= 0.5).float()[None]
    return (F.max_pool2d(inside, 9, 1, 4) > 0.5)[0] & (F.max_pool2d(1 - inside, 9, 1, 4) > 0.5)[0]


if __name__ == "__main__":
    main()
