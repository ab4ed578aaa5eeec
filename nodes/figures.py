"""Figures of faces."""

from __future__ import annotations

import json
import re

from comfy_api.latest import io

from faceparse_core import images as pictures
from faceparse_core.edits import NOTE, as_csv, blinks_of, face_figures, plot

from . import host
from .inputs import parsed_image
from .parsing import CATEGORY, FaceParsing, _batch, _matched
from .shown import shown


class FaceFigures(io.ComfyNode):
    """Image and parsing -> figures of the faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseFaceFigures",
            display_name="Face Figures",
            category=CATEGORY,
            description="Skin tone, how open eyes and mouth are, smile, tilt and turn of faces, over the frames of a "
            "video with blinks. No medical measure, and none of anybody's identity.",
            search_aliases=["skin tone", "ITA", "blink", "eye openness", "smile", "head pose", "yaw", "face metrics"],
            inputs=[
                parsed_image(),
                FaceParsing.Input(
                    "parsing", tooltip="From Parse Face. Of a video with track, so that faces are followed."
                ),
                io.Boolean.Input(
                    "white_balance",
                    default=False,
                    tooltip="On under warm or cold light: skin tones are told as if the surroundings were grey on "
                    "average.",
                ),
                io.Int.Input(
                    "face", default=0, min=0, max=1000, tooltip="Whose curves are drawn: the number of a face."
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=0.1,
                    max=1000.0,
                    step=0.1,
                    tooltip="Frames in a second: a blink is short.",
                ),
            ],
            outputs=[
                io.String.Output("figures", tooltip="JSON, of each image a list with an entry for each face."),
                io.String.Output("table", tooltip="The same as CSV, a line for each face."),
                io.Image.Output("plot", tooltip="Curves of one face over the images, blinks marked."),
                io.Int.Output("blinks", tooltip="How often that face blinks."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, image, parsing, white_balance, face, fps) -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        figures = face_figures(image[..., :3], parsing.labels, parsing.faces, white_balance=white_balance)
        closed = blinks_of(figures, face=face, fps=fps)
        drawn = pictures.as_float(pictures.load(plot(figures, face=face, fps=fps))[0])[None]
        text = json.dumps({"note": NOTE, "images": figures, "blinks": closed}, indent=2)
        # Boxes and colours on one line each.
        text = re.sub(r"\[[-\d\s.,]+\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", text)
        return io.NodeOutput(text, as_csv(figures), host.give(drawn), len(closed), ui=shown(drawn))
