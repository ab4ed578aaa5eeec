"""Glasses, hats, beards to try on."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from faceparse_core.edits import Piece, piece, piece_names, several, try_on

from . import host
from .inputs import WHOSE, its_parsing, parsed_image, share, whose
from .parsing import CATEGORY, _batch, _matched
from .shown import shown


class TryOn(io.ComfyNode):
    """Image and parsing -> image with something tried on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseTryOn",
            display_name="Try On",
            category=CATEGORY,
            description="Lays glasses, a hat, earrings, a beard or a mask on faces, in their tilt, size and turn, "
            "behind hair that lies in front. All else stays as it was, to the bit.",
            search_aliases=[
                "virtual try on",
                "glasses",
                "sunglasses",
                "hat",
                "earrings",
                "beard",
                "face mask",
                "filter",
            ],
            inputs=[
                parsed_image(),
                its_parsing(),
                io.Combo.Input(
                    "piece",
                    options=list(piece_names()),
                    default=piece_names()[0],
                    tooltip="What is tried on. With a picture of your own: as what it is laid on.",
                ),
                io.Float.Input(
                    "size",
                    default=1.0,
                    min=0.2,
                    max=5.0,
                    step=0.01,
                    tooltip="Larger or smaller than it fits the face.",
                ),
                io.Float.Input(
                    "up",
                    default=0.0,
                    min=-3.0,
                    max=3.0,
                    step=0.01,
                    tooltip="Higher, or lower if negative; 1 is as far as from between the eyes to the mouth.",
                ),
                share("shadow", 1.0, "How much of its shadow is seen on the person."),
                whose(),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="A picture of your own in place of the drawing, seen from in front. Connect its mask, too.",
                ),
                io.Mask.Input(
                    "picture_mask",
                    optional=True,
                    tooltip="Where the picture is transparent, as Load Image gives it.",
                ),
            ],
            outputs=[
                io.Image.Output("image"),
                io.Mask.Output("mask", tooltip="What is seen of the piece."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, image, parsing, piece, size, up, shadow, face="all", picture=None, picture_mask=None
    ) -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        what = _own(picture, picture_mask, piece)
        front = None
        if what.behind:
            # Hair by the network for its outlines, as the command and Recolour have it.
            each = (several.refined(image[i : i + 1], parsing[i], what.behind) for i in range(len(image)))
            front = torch.cat(list(each))
        worn, cover = try_on(
            image,
            what,
            parsing.labels,
            parsing.faces,
            front=front,
            face=WHOSE[face],
            size=size,
            up=up,
            shadow=shadow,
            progress=host.Progress(),
        )
        return io.NodeOutput(host.give(worn), host.give(cover), ui=shown(worn))


def _own(picture: torch.Tensor | None, transparent: torch.Tensor | None, name: str) -> Piece:
    """The piece of this name, or somebody's own picture in its place."""
    if picture is None:
        return piece(name)
    drawn = _batch(picture)[0].float()
    if transparent is not None:
        alpha = 1 - (transparent[0] if transparent.ndim == 3 else transparent).float()
        if alpha.shape != drawn.shape[:2]:
            raise ValueError(
                f"picture_mask is of {alpha.shape[1]}x{alpha.shape[0]}, picture of {drawn.shape[1]}x{drawn.shape[0]}: "
                "connect both from the same Load Image"
            )
        drawn = torch.cat([drawn[..., :3], alpha[..., None].to(drawn.device)], 2)
    elif drawn.shape[2] != 4:
        raise ValueError("picture has no transparency: connect picture_mask, too, from the same Load Image")
    return piece(drawn, like=name)
