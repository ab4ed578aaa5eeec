"""Pictures that come with the pack."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from faceparse_core import images as pictures

from . import host
from .parsing import CATEGORY
from .shown import shown

_FOLDER = Path(__file__).resolve().parents[1] / "samples"
_VIDEO = "portrait.mp4"
# What is shown -> its file.
_SAMPLES = {
    "close-up": "closeup.jpg",
    "whole scene": "portrait.jpg",
    "several faces": "several.jpg",
    "frames of a video": _VIDEO,
}


class SamplePortrait(io.ComfyNode):
    """A picture of the pack -> image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseSamplePortrait",
            display_name="Sample Portrait",
            category=CATEGORY,
            description="A portrait that comes with these nodes, to try them without a picture of your own. For yours "
            "put Load Image in its place.",
            search_aliases=["example image", "test image", "demo picture", "portrait", "astronaut"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(_SAMPLES),
                    default="close-up",
                    tooltip="close-up and whole scene are one person, at two distances; several faces is a wall with "
                    "three photographs; frames of a video is a batch of 24. All are of NASA's portrait of Eileen "
                    "Collins, which is in the public domain.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="As Load Image would give it.")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, picture) -> io.NodeOutput:
        file = _FOLDER / _SAMPLES[picture]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: these nodes were not copied whole. Use Load Image instead")
        image = host.read_video(file) if file.name == _VIDEO else torch.stack(pictures.load(file)) / 255
        return io.NodeOutput(host.give(image), ui=shown(image))
