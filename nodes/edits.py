"""Pictures with something of a person changed: another colour, nobody to know, another background."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy_api.latest import io
from torch import Tensor

from faceparse_core import masks
from faceparse_core.edits import (
    AREAS,
    CELLS,
    WAYS,
    blur_background,
    hidden_area,
    hide,
    recolour,
    replace_background,
    several,
)
from faceparse_core.parsing import Parsing

from . import host
from .inputs import WHOSE, its_parsing, missing, parsed_image, share, whose, without_face
from .parsing import CATEGORY, FaceParsing, _batch, _matched, wrong_region
from .shown import shown

# What Face Privacy makes of an image in which no face was found.
_NO_FACE = ("hide everything", "leave it", "error")
_BACKGROUNDS = ("blur", "colour", "picture", "transparent")


class Recolour(io.ComfyNode):
    """Image and parsing, or mask -> image with a part in another colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseRecolour",
            display_name="Recolour",
            category=CATEGORY,
            description="Another colour for hair, brows, lips or clothes, with their light and texture: dark hair can "
            "become light and light hair dark. Everything else stays as it was, to the bit.",
            search_aliases=[
                "hair colour",
                "hair color",
                "hair dye",
                "change colour",
                "recolor",
                "lip colour",
                "clothes colour",
                "tint",
                "ombre",
            ],
            inputs=[
                parsed_image(),
                FaceParsing.Input(
                    "parsing", optional=True, tooltip="From Parse Face. Not needed where a mask is connected."
                ),
                io.String.Input(
                    "region",
                    default="hair",
                    placeholder="hair",
                    tooltip="What gets the colour: any name or expression of Select Labels, such as hair, brows, lips, "
                    "clothing or eyeglasses. Its edge is refined to the image, that of hair by its strands.",
                ),
                io.Color.Input("colour", default="#7a1f2b", tooltip="The new colour. Greys and pastels are fine."),
                share("strength", 1.0, "Lower it to mix in the image as it was: a rinse, not a dye."),
                io.Boolean.Input(
                    "two_tone",
                    default=False,
                    optional=True,
                    tooltip="On for a second colour, into which the first runs downwards, as in dip-dyed hair.",
                ),
                io.Color.Input(
                    "tips", default="#d9a441", optional=True, tooltip="The second colour. Used if two_tone is on."
                ),
                whose(),
                share(
                    "light",
                    1.0,
                    "How far light and dark go to those of the colour. At 0 they stay as they are, and only "
                    "the tint changes.",
                    optional=True,
                    advanced=True,
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="What gets the colour, in place of the region; best a soft mask."
                ),
            ],
            outputs=[
                io.Image.Output("image"),
                io.Mask.Output("mask", tooltip="What got the colour."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, region=None) -> bool | str:
        return wrong_region(region) or True

    @classmethod
    def execute(
        cls, image, region, colour, strength, parsing=None, two_tone=False, tips="#d9a441", face="all", light=1.0,
        mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        image, mask, tick = _where(image, parsing, mask, region, WHOSE[face])
        host.tell(cls, "" if mask.any() else f"nothing of {region} found: the image is as it was")
        coloured = recolour(
            image, mask, colour, tips=tips if two_tone else None, strength=strength, light=light, progress=tick
        )
        return io.NodeOutput(host.give(coloured), host.give(mask), ui=shown(coloured))


class Background(io.ComfyNode):
    """Image and parsing, or mask -> image with another background."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseBackground",
            display_name="Background",
            category=CATEGORY,
            description="Blurs what is behind a person as a lens does, or replaces it by a colour, a picture or "
            "nothing. There is no glow around the person, and none of the old background in their hair.",
            search_aliases=[
                "blur background",
                "bokeh",
                "depth of field",
                "portrait mode",
                "remove background",
                "replace background",
                "transparent background",
                "change background",
                "rembg",
                "green screen",
            ],
            inputs=[
                parsed_image(),
                FaceParsing.Input(
                    "parsing", optional=True, tooltip="From Parse Face. Not needed where a mask is connected."
                ),
                io.Combo.Input(
                    "way",
                    options=list(_BACKGROUNDS),
                    default=_BACKGROUNDS[0],
                    tooltip="blur: out of focus; colour: the one below; picture: the one that is connected; "
                    "transparent: none, for Save Image.",
                ),
                io.Color.Input("colour", default="#e8e4da", tooltip="Used if way is colour."),
                io.Float.Input(
                    "radius",
                    default=2.0,
                    min=0.0,
                    max=25.0,
                    step=0.1,
                    tooltip="How much is blurred: the radius of the lens's discs, in percent of the image's longer "
                    "side. Used if way is blur.",
                ),
                io.String.Input(
                    "keep",
                    default="person",
                    placeholder="person",
                    optional=True,
                    tooltip="What stays: any name or expression of Select Labels, such as person or head + neck.",
                ),
                whose(),
                share(
                    "falloff",
                    0.6,
                    "How much sharper it is near the person, where the background is taken to be nearer. 0 "
                    "blurs all alike. Used if way is blur.",
                    optional=True,
                    advanced=True,
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="The new background, or one for each image, if way is picture. It is scaled until it fills "
                    "the image, and its middle is seen.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="What stays, in place of keep; best a soft mask of Refine Mask."
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="With an alpha channel if way is transparent."),
                io.Mask.Output("mask", tooltip="What stayed."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, keep=None) -> bool | str:
        return wrong_region(keep) or True

    @classmethod
    def execute(
        cls, image, way, colour, radius, parsing=None, keep="person", face="all", falloff=0.6, picture=None,
        mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        if way == "picture" and picture is None:
            raise ValueError("way is picture, but none is connected: connect one to picture, or choose another way")
        image, mask, tick = _where(image, parsing, mask, keep, WHOSE[face])
        host.tell(cls, "" if mask.any() else f"nothing of {keep} found: all of the image is background")
        if way == "blur":
            changed = blur_background(image, mask, radius=radius, falloff=falloff, progress=tick)
        elif way == "transparent":
            changed = masks.cut_out(image, mask, progress=tick)
        else:
            changed = replace_background(image, mask, colour if way == "colour" else picture, progress=tick)
        return io.NodeOutput(host.give(changed), host.give(mask), ui=shown(changed))


class FacePrivacy(io.ComfyNode):
    """Image and parsing -> image in which faces cannot be told."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseFacePrivacy",
            display_name="Face Privacy",
            category=CATEGORY,
            description="Hides faces so that nobody can tell whose they are: in blocks, blurred, painted over, or with "
            "a face that is nobody's. How coarse it is follows from the size of each face. Look at the result before "
            "you publish it: a face that was not found is not hidden.",
            search_aliases=[
                "blur face",
                "pixelate face",
                "censor",
                "anonymize",
                "anonymise",
                "mosaic",
                "hide face",
                "blur eyes",
                "black bar",
                "gdpr",
            ],
            inputs=[
                parsed_image(),
                its_parsing(),
                io.Combo.Input(
                    "way",
                    options=list(WAYS),
                    default=WAYS[0],
                    tooltip="pixelate: in blocks; blur: the same without edges; solid: the colour below; average face: "
                    "one that is nobody's, in the colour of the skin.",
                ),
                io.Combo.Input(
                    "area",
                    options=list(AREAS),
                    default=AREAS[0],
                    tooltip="What is hidden: the face from forehead to chin, a band over the eyes, all of the head; or "
                    "everything else.",
                ),
                io.Int.Input(
                    "cells",
                    default=CELLS,
                    min=1,
                    max=CELLS,
                    tooltip="How many blocks are left across a face, for pixelate and blur. Lower it to hide more.",
                ),
                io.Color.Input("colour", default="#000000", tooltip="Used if way is solid."),
                whose("Whose, where there are several faces: the largest has number 0. Parsing Info lists them."),
                io.Boolean.Input(
                    "others",
                    default=False,
                    optional=True,
                    tooltip="On to hide everybody but the face that is chosen above.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(_NO_FACE),
                    default=_NO_FACE[0],
                    optional=True,
                    tooltip="What becomes of an image in which no face was found: hide everything, so that none that "
                    "was missed is seen; leave it; or stop there (error).",
                ),
            ],
            outputs=[
                io.Image.Output("image"),
                io.Mask.Output("mask", tooltip="What was hidden."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, image, parsing, way, area, cells, colour, face="all", others=False, on_no_face=_NO_FACE[0]
    ) -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        faces = parsing.faces
        mask = hidden_area(parsing.labels, faces, area=area, face=WHOSE[face], others=others)
        text = "" if others else missing(parsing, WHOSE[face])
        if where := without_face(faces):
            if on_no_face == "error":
                raise ValueError(f"there is no face in {where}")
            hidden = on_no_face == "hide everything"
            mask[[not found for found in faces]] = float(hidden)
            text = f"no face in {where}: {'all of it is hidden' if hidden else 'it is as it was'}"
        host.tell(cls, text)
        changed = hide(
            image, mask, faces, way=way, cells=cells, colour=colour, labels=parsing.labels, progress=host.Progress()
        )
        return io.NodeOutput(host.give(changed), host.give(mask), ui=shown(changed))


def _where(
    image: Tensor, parsing: Parsing | None, mask: Tensor | None, region: str, face: int | str
) -> tuple[Tensor, Tensor, Callable[[int, int], None]]:
    """The images, the mask of what is to be changed in them (the one that is connected, else that of a region, refined)
    and the progress of changing them."""
    image, tick = _batch(image), host.Progress()
    if mask is not None:
        return image, mask, tick
    if parsing is None:
        raise ValueError("connect the parsing of Parse Face, or a mask")
    parsing, image = _matched(parsing, image)
    count = len(image)
    parts = []
    for number in range(count):
        parts.append(several.refined(image[number : number + 1], parsing[number], region, face))
        tick(number + 1, 2 * count)
    return image, torch.cat(parts), lambda done, _: tick(count + done, 2 * count)
