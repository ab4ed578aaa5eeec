"""Faces out of images as crops, and edited crops back into them."""

from __future__ import annotations

import logging
from typing import cast

import torch
from comfy_api.latest import io

from faceparse_core.faces import crop_faces, paste_faces

from . import host
from .inputs import its_parsing, parsed_image
from .parsing import CATEGORY, _batch, _matched, wrong_region
from .shown import shown

FaceCrops = io.Custom("FACE_CROPS")
"""A ``faceparse_core.faces.FaceCrops``: where crops came from."""

# The side of the stand-in for crops where there is no face and no size is asked for.
_BLANK = 512
_log = logging.getLogger("faceparse")


class CropFaces(io.ComfyNode):
    """Image and parsing -> square crops of the faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseCropFaces",
            display_name="Crop Faces",
            category=CATEGORY,
            description="Cuts faces out as square images of one size, to work on them at full resolution: inpaint, "
            "upscale, restore. Paste Faces puts them back.",
            search_aliases=[
                "face crop",
                "face detailer",
                "crop face",
                "extract face",
                "align face",
                "face region",
                "crop and stitch",
                "adetailer",
            ],
            inputs=[
                parsed_image(),
                its_parsing(),
                io.Int.Input(
                    "size",
                    default=512,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Width and height of the crops. Take what the model that works on them is made for (512 "
                    "for SD 1.5, 1024 for SDXL); 0 resamples nothing: all are as large as the largest face needs.",
                ),
                io.Float.Input(
                    "padding",
                    default=0.5,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="What is added around the face on each side, in parts of its size. Raise it if a model "
                    "needs to see more of hair and shoulders; lower it to spend more pixels on the face.",
                ),
                io.Combo.Input(
                    "face",
                    options=["all", "largest", "index"],
                    default="all",
                    tooltip="Which faces of each image. Choose index to take the one that is numbered below.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Used if face is index: 0 is the first. An image with fewer faces gives no crop.",
                ),
                io.Boolean.Input(
                    "align",
                    default=False,
                    tooltip="On to turn each crop so that its face is upright, which models do better on. Off leaves "
                    "pixels that need no resizing as they are.",
                ),
                io.String.Input(
                    "region",
                    default="face",
                    optional=True,
                    advanced=True,
                    tooltip="What the masks show: any name or expression of Select Labels, such as head, eyes, "
                    "face - lips or under eyes.",
                ),
            ],
            outputs=[
                io.Image.Output("crops", tooltip="A square image for each face."),
                io.Mask.Output("masks", tooltip="The region in each crop, for inpainting."),
                FaceCrops.Output("face_crops", tooltip="Where the crops came from, for Paste Faces."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, region=None) -> bool | str:
        return wrong_region(region) or True

    @classmethod
    def execute(cls, image, parsing, size, padding, face, index=0, align=False, region="face") -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        which = index if face == "index" else face
        crops, masks, places = crop_faces(
            image, parsing, size=size, padding=padding, face=which, align=align, region=region, progress=host.Progress()
        )
        text = f"{len(places)} face{'s' * (len(places) != 1)}"
        if not places.places:
            # Most nodes fail on a batch of nothing: they get something to chew on, which is pasted nowhere.
            crops, masks = (torch.zeros(1, size or _BLANK, size or _BLANK, *channels) for channels in ((3,), ()))
            text = "no face: a blank crop, which Paste Faces leaves out"
        host.show_text(cls.hidden.unique_id, text)
        _log.info("Crop Faces: %s in %d image%s", text, len(image), "s" * (len(image) != 1))
        return io.NodeOutput(host.give(crops), host.give(masks), places, ui=shown(crops).as_dict() | {"text": [text]})


class PasteFaces(io.ComfyNode):
    """Image and edited crops -> image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParsePasteFaces",
            display_name="Paste Faces",
            category=CATEGORY,
            description="Puts edited crops of Crop Faces back into their images, with a soft edge. Everything else "
            "stays as it was, to the bit.",
            search_aliases=["uncrop face", "stitch face", "face detailer", "paste back", "face restore", "composite"],
            inputs=[
                io.Image.Input("image", tooltip="The image that went into Crop Faces, or another edit of it."),
                io.Image.Input("crops", tooltip="The edited crops, in their order; they may have become larger."),
                FaceCrops.Input("face_crops", tooltip="From Crop Faces."),
                io.Int.Input(
                    "feather",
                    default=24,
                    min=0,
                    max=1024,
                    tooltip="Width of the soft edge, in pixels of the crops as they left Crop Faces. Raise it until "
                    "the seam is gone.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What of the crops is put back, as the masks of Crop Faces. Without it they are put back "
                    "whole.",
                ),
            ],
            outputs=[io.Image.Output("image")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, image, crops, face_crops, feather, mask=None) -> io.NodeOutput:
        pasted = paste_faces(
            _batch(image), _batch(crops), face_crops, mask=mask, feather=feather, progress=host.Progress()
        )
        pasted = cast(torch.Tensor, pasted)  # as the images were
        return io.NodeOutput(host.give(pasted), ui=shown(pasted))
