"""Parts of a parsing as a mask."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from . import host
from .parsing import CATEGORY, FaceParsing, wrong_region
from .shown import menu

# Whose parts are selected: as it is shown, and as the engine calls it.
WHOSE: dict[str, str | int] = {"all": "all", "largest": "largest", **{str(index): index for index in range(16)}}
_log = logging.getLogger("faceparse")


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
                FaceParsing.Input("parsing", tooltip="From Parse Face."),
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
                io.Combo.Input(
                    "face",
                    options=list(WHOSE),
                    default="all",
                    optional=True,
                    tooltip="Whose parts, where there are several faces: the largest has number 0. Parsing Info lists "
                    "them.",
                ),
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
        text = missing(parsing, WHOSE[face])
        if text:
            _log.warning("Select Labels: %s", text)
        host.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(host.give(mask), ui={"faceparse": [menu(parsing)]})


def missing(parsing, face: str | int) -> str:
    """What to tell of images that have no face of this number, and so an empty mask; nothing if all have it."""
    if not isinstance(face, int):
        return ""
    counts = [len(found) for found in parsing.faces]
    without = sum(count <= face for count in counts)
    if not without:
        return ""
    most = max(counts)
    there = f"{most} face{'s' * (most != 1)}" + (f", numbered 0 to {most - 1}" if most > 1 else ", number 0" * most)
    where = "the mask is empty" if len(counts) == 1 else f"the masks of {without} of {len(counts)} images are empty"
    return f"no face {face}: there {'is' if most == 1 else 'are'} {there if most else 'no faces'}; {where}"
