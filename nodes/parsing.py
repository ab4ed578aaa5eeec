"""Parsing faces, and what is made of a parsing: masks, pictures, figures."""

from __future__ import annotations

import json
import logging
import re
import time

import torch
from comfy_api.latest import io, ui

from faceparse_core import images as pictures
from faceparse_core.labels import resolve
from faceparse_core.parsing import NO_FACE, Parsing

from . import host
from .shown import shown_parsing

CATEGORY = "image/mask/face parsing"
FaceParsing = io.Custom("FACE_PARSING")
"""A ``faceparse_core.Parsing``."""

_FACES = {"auto": "auto", "whole image": "image"}
_log = logging.getLogger("faceparse")


class ParseFace(io.ComfyNode):
    """Image -> parsing. The only node that runs a network."""

    def __init__(self):
        super().__init__()
        host.keep_networks_with(self)

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseParseFace",
            display_name="Parse Face",
            category=CATEGORY,
            description="Finds skin, hair, eyes, lips and fifteen more parts of faces in images. Its parsing is for "
            "Select Labels, which makes masks of it without running the model again.",
            search_aliases=[
                "face parsing",
                "face mask",
                "segment face",
                "face segmentation",
                "hair mask",
                "skin mask",
                "bisenet",
                "segformer",
                "celebamask",
                "semantic face",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Pictures with a face, one or a batch. An alpha channel is ignored."),
                io.Combo.Input(
                    "model",
                    options=host.model_names(),
                    default="auto",
                    tooltip="Leave it at auto: the exact segformer-b5 (downloaded once, 339 MB) or, where that cannot "
                    "be had, the small lite, which comes with these nodes. Choose lite for speed without a GPU, or a "
                    "model of your own that lies in models/face_parsing.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(NO_FACE),
                    default=NO_FACE[0],
                    tooltip="What the masks of an image without a face are: what is there all the same, such as the "
                    "hair of a head from behind. Change it for videos in which the face turns away (last frame's, "
                    "between), for masks that are empty or full then (empty mask, whole image), or to stop there "
                    "(error).",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=128,
                    max=2048,
                    step=32,
                    optional=True,
                    advanced=True,
                    tooltip="The size at which the model looks at an image. The models are made for 512; go up if a "
                    "face is small in a large picture, at the price of time and memory.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "bf16", "fp16"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Change it only if results look broken on your GPU: fp32 is the safest, and slower.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="Images that go through the model at a time; 0 is as many as fit. Lower it if memory runs "
                    "out.",
                ),
                io.Combo.Input(
                    "faces",
                    options=list(_FACES),
                    default="auto",
                    optional=True,
                    tooltip="Auto finds the faces of group photos and whole scenes, parses each at its own scale and "
                    "puts them together; close-ups are parsed whole. Choose whole image to parse every picture as one "
                    "portrait.",
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Boxes of the faces from a detector, in place of the search.",
                ),
                io.Boolean.Input(
                    "track",
                    default=False,
                    optional=True,
                    tooltip="On for the frames of a video: a face keeps its number, and masks flicker less. Off for "
                    "pictures that have nothing to do with each other.",
                ),
            ],
            outputs=[
                FaceParsing.Output("parsing", tooltip="For Select Labels, Preview Parsing and Parsing Info."),
                io.Mask.Output("face_mask", tooltip="The face with its features; without ears, hair and neck."),
                io.Image.Output("overlay", tooltip="The image with the parts in their colours."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def fingerprint_inputs(cls, model=None, **_):
        return host.model_fingerprint(model) if isinstance(model, str) else ""

    @classmethod
    def execute(
        cls, image, model, on_no_face, resolution=512, precision="auto", batch_size=0, faces="auto", bboxes=None,
        track=False,
    ) -> io.NodeOutput:  # fmt: skip
        start = time.perf_counter()
        image = _batch(image)
        found, parser = host.parse(
            image,
            model=model,
            precision=precision,
            resolution=resolution,
            batch_size=batch_size,
            faces=_FACES[faces] if bboxes is None else _boxes_of_each(bboxes, len(image)),
            track=track,
        )
        parsing = found.where_no_face(on_no_face)
        picture = shown_parsing(parsing, image).as_dict()
        ran = f"{parser.checkpoint.name} · {parser.precision} on {parser.device}"
        if model == "auto" and parser.checkpoint.name == "lite":
            ran += "\nsegformer-b5 not found: see log"
        host.show_text(cls.hidden.unique_id, ran)
        _log.info(
            "Parse Face: %d image%s with %s, %s on %s, in %.2f s",
            len(parsing), "s" * (len(parsing) != 1), parser.checkpoint.name, parser.precision, parser.device,
            time.perf_counter() - start,
        )  # fmt: skip
        height, width = image.shape[1:3]
        face = host.give_later((len(parsing), height, width), lambda: parsing.mask("face"))
        overlay = host.give_later((len(parsing), height, width, 3), lambda: parsing.overlay(image))
        return io.NodeOutput(parsing, face, overlay, ui=picture | {"text": [ran]})


def _boxes_of_each(bboxes, count: int) -> list[list]:
    """Of each image its boxes: nodes give one box, the boxes of one image, or a list for each image."""
    bboxes = [bboxes] if isinstance(bboxes, dict) else list(bboxes)
    if not all(isinstance(boxes, (list, tuple)) for boxes in bboxes):
        bboxes = [bboxes]
    return bboxes * count if len(bboxes) == 1 else bboxes


def wrong_region(expression: str | None) -> str:
    """What is wrong with a region expression, with the nearest right names; nothing, too, where it comes over a link
    and is not known before the run."""
    if expression is None:
        return ""
    try:
        resolve(expression)
    except ValueError as error:
        return str(error)
    return ""


class PreviewParsing(io.ComfyNode):
    """Parsing and image -> a picture to look at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParsePreviewParsing",
            display_name="Preview Parsing",
            category=CATEGORY,
            description="Shows what was found: the parts in their colours over the image, and their names below.",
            search_aliases=["show parsing", "face parsing overlay", "segmentation preview", "label colours", "legend"],
            inputs=[
                FaceParsing.Input("parsing", tooltip="From Parse Face."),
                io.Image.Input("image", tooltip="The image that was parsed."),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Lower it to see the image through the colours; 1 shows the colours alone.",
                ),
                io.Boolean.Input(
                    "legend",
                    default=True,
                    tooltip="Names the colours in a strip below the image, which makes it higher. Off for an overlay "
                    "of the image's own size.",
                ),
            ],
            outputs=[io.Image.Output("overlay", tooltip="What is shown, with the legend if that is on.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, parsing, image, opacity, legend) -> io.NodeOutput:
        parsing, image = _matched(parsing, _batch(image))
        overlay = parsing.overlay(image, opacity=opacity)
        if legend:
            present = (parsing.areas.sum(0) > 0).nonzero().flatten().tolist()
            strip = pictures.legend([label for label in present if label], overlay.shape[2])
            strip = (strip / 255).expand(len(overlay), -1, -1, -1)
            overlay = torch.cat([overlay, strip], dim=1)
        overlay = host.give(overlay)
        return io.NodeOutput(overlay, ui=ui.PreviewImage(overlay, cls=cls))


def _batch(image: torch.Tensor) -> torch.Tensor:
    """Images [B, H, W, C]; some nodes give a single one without its B."""
    return image[None] if image.ndim == 3 else image


def _matched(parsing: Parsing, image: torch.Tensor) -> tuple[Parsing, torch.Tensor]:
    """A parsing and images of one number and size; a single one of either counts for all of the other."""
    height, width = image.shape[1:3]
    if set(parsing.sizes) != {(height, width)}:
        there, across = parsing.sizes[0]
        raise ValueError(
            f"the parsing is of images of {across}x{there}, but the image has {width}x{height}: connect the image that "
            "went into Parse Face"
        )
    if len(parsing) == len(image):
        return parsing, image
    if len(image) == 1:
        return parsing, image.expand(len(parsing), -1, -1, -1)
    if len(parsing) == 1:
        return parsing.repeated(len(image)), image
    raise ValueError(
        f"the parsing is of {len(parsing)} images, but there are {len(image)}: give as many, or a single one"
    )


class ParsingInfo(io.ComfyNode):
    """Parsing -> figures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseParsingInfo",
            display_name="Parsing Info",
            category=CATEGORY,
            description="Where things are and how large: areas, boxes and centres of all labels as JSON, and the box "
            "of a region, for nodes that crop, detect or draw.",
            search_aliases=["face bbox", "face bounding box", "face count", "face area", "face position", "crop face"],
            inputs=[
                FaceParsing.Input("parsing", tooltip="From Parse Face."),
                io.String.Input(
                    "region",
                    default="face",
                    tooltip="What the boxes are drawn around. Change it to crop something else, such as head, eyes or "
                    "hair + hat.",
                ),
            ],
            outputs=[
                io.String.Output("info", tooltip="JSON, a list with an entry for each image."),
                io.BoundingBox.Output(
                    "bboxes", tooltip="Of each image a list with the box of the region, of each face one; or empty."
                ),
                io.Int.Output("face_count", tooltip="Faces in all images together."),
            ],
        )

    @classmethod
    def validate_inputs(cls, region=None) -> bool | str:
        return wrong_region(region) or True

    @classmethod
    def execute(cls, parsing, region) -> io.NodeOutput:
        figures = parsing.figures()
        names = ("x", "y", "width", "height")
        count = sum(len(image["faces"]) for image in figures)
        most = max(len(image["faces"]) for image in figures)
        boxes: list[list[dict]] = [[] for _ in figures]
        for face in range(most) if most > 1 else ["all"]:
            for image, box, found in zip(figures, parsing.boxes(region, face=face), boxes, strict=True):
                if box:
                    score = image["faces"][face]["score"] if most > 1 else 1.0
                    found.append(dict(zip(names, box, strict=True), label=region, score=score))
        info = json.dumps(figures, indent=2)
        # Boxes and centres on one line each.
        info = re.sub(r"\[[\d\s.,]+\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", info)
        return io.NodeOutput(info, boxes, count)
