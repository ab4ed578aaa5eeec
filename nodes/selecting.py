"""Parts of a parsing as a mask."""

from __future__ import annotations

from comfy_api.latest import io

from . import host
from .inputs import WHOSE, its_parsing, missing, whose
from .parsing import CATEGORY, wrong_region
from .shown import menu


class SelectLabels(io.ComfyNode):
    """Parsing -> mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseSelectLabels",
            display_name="Select Labels",
            category=CATEGORY,
            description="The mask of parts of the face, written as hair, or as face - eyes - lips. Left and right are "
            "the person's own.",
            search_aliases=[
                "face mask",
                "hair mask",
                "eyes mask",
                "lips mask",
                "skin mask",
                "mouth",
                "eyebrows",
                "glasses",
                "background mask",
                "face parts",
                "forehead mask",
                "cheeks",
                "under eye",
                "t-zone",
                "labels to mask",
                "parsing to mask",
            ],
            inputs=[
                its_parsing(),
                io.String.Input(
                    "labels",
                    default="face",
                    placeholder="hair + hat",
                    tooltip="What the mask shows: names joined by + and -, worked out from left to right. Groups: "
                    "face, skin, eyes, brows, ears, lips, mouth area, hair, head, accessories, person, background, "
                    "all. Parts: nose, left eye, upper lip, inner mouth, neck, hat, clothing … Drawn on the face: "
                    "forehead, cheeks, chin, under eyes, t-zone.",
                ),
                io.Boolean.Input(
                    "soft",
                    default=False,
                    optional=True,
                    tooltip="On for soft edges that follow fine hair, as for compositing; off for a mask of 0 and 1.",
                ),
                whose("Whose parts, where there are several faces: the largest has number 0. Parsing Info lists them."),
            ],
            outputs=[io.Mask.Output("mask")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, labels=None) -> bool | str:
        return wrong_region(labels) or True

    @classmethod
    def execute(cls, parsing, labels, soft=False, face="all") -> io.NodeOutput:
        mask = parsing.mask(labels, soft=soft, face=WHOSE[face])
        host.tell(cls, missing(parsing, WHOSE[face]))
        return io.NodeOutput(host.give(mask), ui={"faceparse": [menu(parsing)]})
