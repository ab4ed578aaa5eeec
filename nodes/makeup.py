"""Faces made up, and their skin smoothed."""

from __future__ import annotations

import json

from comfy_api.latest import io

from faceparse_core.edits import LOOKS, Look, look, make_up, smooth_skin

from . import host
from .inputs import WHOSE, its_parsing, missing, parsed_image, share, whose, without_face
from .parsing import CATEGORY, _batch, _matched
from .shown import shown


class MakeUp(io.ComfyNode):
    """Image and parsing -> image with the faces made up."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseMakeUp",
            display_name="Make-up",
            category=CATEGORY,
            description="Makes faces up: lipstick, eyeshadow, eyeliner, blush, brows, an even tone, whiter teeth, "
            "other irises. Lines and edges follow the size of each face; all else stays as it was, to the bit.",
            search_aliases=[
                "makeup",
                "lipstick",
                "lip colour",
                "eyeshadow",
                "eyeliner",
                "blush",
                "foundation",
                "eye colour",
                "contact lenses",
                "teeth whitening",
                "beauty",
            ],
            inputs=[
                parsed_image(),
                its_parsing(),
                io.Combo.Input(
                    "look",
                    options=list(LOOKS),
                    default="natural",
                    tooltip="What is put on, in which colours and how strongly.",
                ),
                share("strength", 1.0, "Lower it for less of everything."),
                io.Boolean.Input(
                    "own_colours",
                    default=False,
                    optional=True,
                    tooltip="On to take the three colours below in place of the look's.",
                ),
                _colour("lips", "#b3121d", "Lipstick and lip liner"),
                _colour("eyeshadow", "#70503f", "Eyeshadow"),
                _colour("blush", "#c9736d", "Blush"),
                io.Boolean.Input(
                    "lenses",
                    default=False,
                    optional=True,
                    tooltip="On for irises in the colour below; pupils and the light in them stay.",
                ),
                io.Color.Input("irises", default="#3f7fb0", optional=True, tooltip="Used if lenses is on."),
                whose(),
            ],
            outputs=[io.Image.Output("image")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, image, parsing, look, strength, own_colours=False, lips="#b3121d", eyeshadow="#70503f", blush="#c9736d",
        lenses=False, irises="#3f7fb0", face="all",
    ) -> io.NodeOutput:  # fmt: skip
        parsing, image = _matched(parsing, _batch(image))
        wanted = _look(look, own_colours and (lips, eyeshadow, blush), lenses and irises)
        host.tell(cls, _nobody(parsing, face))
        made_up = make_up(
            image, parsing.labels, parsing.faces, wanted, strength=strength, face=WHOSE[face], progress=host.Progress()
        )
        return io.NodeOutput(host.give(made_up), ui=shown(made_up))


class SmoothSkin(io.ComfyNode):
    """Image and parsing -> image with smoother skin."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseSmoothSkin",
            display_name="Smooth Skin",
            category=CATEGORY,
            description="Smooths the skin of faces and leaves its pores; takes back spots, shine and shadows under the "
            "eyes. Never over eyes, brows, lips, nostrils, hair or beards: these stay as they were, to the bit.",
            search_aliases=[
                "skin smoothing",
                "skin retouch",
                "beauty filter",
                "blemish",
                "spots",
                "pores",
                "frequency separation",
                "dark circles",
                "shine",
            ],
            inputs=[
                parsed_image(),
                its_parsing(),
                share("smooth", 0.4, "How much is smoothed of what is coarser than pores. 0.4 is a retouch, 1 is wax."),
                share("spots", 0.4, "How much small red or dark places become like the skin around them."),
                share("shine", 0.3, "How much gloss is taken back."),
                share("under_eyes", 0.3, "How much shadows under the eyes are lifted to the cheeks."),
                whose(),
                io.Float.Input(
                    "pores",
                    default=1.0,
                    min=0.1,
                    max=5.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="The size of the detail that stays, in percent of the face's height. Lower it to keep only "
                    "the finest.",
                ),
            ],
            outputs=[io.Image.Output("image")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, image, parsing, smooth, spots, shine, under_eyes, face="all", pores=1.0) -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        host.tell(cls, _nobody(parsing, face))
        smoothed = smooth_skin(
            image,
            parsing.labels,
            parsing.faces,
            smooth=smooth,
            pores=pores,
            spots=spots,
            shine=shine,
            under_eyes=under_eyes,
            face=WHOSE[face],
            progress=host.Progress(),
        )
        return io.NodeOutput(host.give(smoothed), ui=shown(smoothed))


def _look(name: str, colours: tuple[str, str, str] | bool, irises: str | bool) -> Look:
    """A look that is shipped, with other colours of lips, lids and cheeks, and of irises, where there are any."""
    steps = json.loads(look(name).as_json())
    if isinstance(colours, tuple):
        lips, lids, cheeks = colours
        for step, colour in (("lipstick", lips), ("lip_liner", lips), ("eyeshadow", lids), ("blush", cheeks)):
            if step in steps:
                steps[step]["colour"] = colour
                steps[step].pop("crease", None)
    if isinstance(irises, str):
        steps["irises"] = {"colour": irises}
    return look(steps)


def _nobody(parsing, face: str) -> str:
    """What to tell of images without a face, or without the one that is asked for."""
    if where := without_face(parsing.faces):
        return f"no face in {where}: nothing is changed there"
    return missing(parsing, WHOSE[face]).partition(";")[0]


def _colour(name: str, default: str, what: str) -> io.Color.Input:
    return io.Color.Input(name, default=default, optional=True, tooltip=f"{what}. Used if own_colours is on.")
