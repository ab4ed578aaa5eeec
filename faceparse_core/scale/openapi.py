"""What the page of the endpoint (``/docs``) says of a request, with an example that runs as it stands."""

from __future__ import annotations

import io
from pathlib import Path

from faceparse_core import images as pictures
from faceparse_core.labels import LABELS
from faceparse_core.scale.asking import LABELS_AS
from faceparse_core.scale.editing import BACKGROUNDS, PARTS
from faceparse_core.scale.records import base64_text

_PORTRAIT = Path(__file__).parents[1] / "weights" / "portrait.jpg"
_SIDE = 112


def request_body() -> dict:
    """The two forms of a request to ``/v1/parse``, as ``openapi_extra`` takes them."""
    asked = {
        "labels": {
            "type": "string",
            "enum": list(LABELS_AS),
            "default": "png",
            "description": "the label map: an indexed PNG, COCO's run lengths of each label, or none",
        },
        "regions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "of each a mask comes back: names of labels and groups joined by + and -",
        },
        "soft": {"type": "boolean", "default": False, "description": "masks with soft edges"},
        "face": {"type": "string", "default": "all", "description": "whose masks: all, largest, or an index"},
        "overlay": {"type": "boolean", "default": False, "description": "the picture with its labels in colour"},
        "faces": {
            "type": "string",
            "enum": ["auto", "image"],
            "default": "auto",
            "description": "find the faces, or take every picture for one portrait",
        },
    }
    in_base64 = {"type": "string", "description": "the bytes of a picture's file in base64"}
    example = {"image": small_portrait(), "labels": "rle", "regions": ["hair", "face - eyes - lips"]}
    in_json = {
        "type": "object",
        "properties": {"image": in_base64, "images": {"type": "array", "items": in_base64}, **asked},
        "example": example,
    }
    file = {"type": "string", "format": "binary"}
    in_form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": file, "description": "one or several"}, **asked},
        "required": ["image"],
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": in_json}, "multipart/form-data": {"schema": in_form}},
        },
        "responses": {
            "200": {
                "description": "of each picture its size, faces, the labels that are there, and what was asked for; "
                "files in base64, or with Accept: application/zip or multipart/mixed as files",
                "content": {"application/json": {}, "application/zip": {}, "multipart/mixed": {}},
            },
            "400": {"description": "no picture, or something that cannot be asked for; it says what"},
            "413": {"description": "too large"},
            "429": {"description": "full: come again after the seconds in Retry-After"},
        },
        "description": f"Labels: {', '.join(label.title for label in LABELS)}. Left and right are the subject's.",
    }


def edit_body() -> dict:
    """The two forms of a request to ``/v1/edit``."""
    colour = {"type": "string", "description": "a colour: #7a1f2b, or a name such as navy"}
    asked = {
        **dict.fromkeys((*PARTS, "tips"), colour),
        "strength": {"type": "number", "default": 1, "description": "how much of the colours is seen, 0..1"},
        "background": {"type": "string", "description": f"{', '.join(BACKGROUNDS)}, or a colour"},
        "radius": {"type": "number", "default": 2, "description": "of the blur, in percent of the longer side"},
        "faces": {"type": "string", "enum": ["auto", "image"], "default": "auto"},
    }
    in_json = {
        "type": "object",
        "properties": {"image": {"type": "string", "description": "the bytes of a file in base64"}, **asked},
        "example": {"image": small_portrait(), "hair": "#7a1f2b", "background": "blur"},
    }
    in_form = {
        "type": "object",
        "properties": {"image": {"type": "string", "format": "binary"}, **asked},
        "required": ["image"],
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": in_json}, "multipart/form-data": {"schema": in_form}},
        },
        "responses": {"200": {"description": "the changed picture", "content": {"image/png": {}}}},
    }


def small_portrait() -> str:
    """A picture for examples, in base64."""
    file = io.BytesIO()
    face = pictures.load(_PORTRAIT)[0][8:252, 100:344]
    picture = pictures.resize(face, (_SIDE, _SIDE))
    pictures.to_pil(picture).save(file, format="JPEG", quality=80)
    return base64_text(file.getvalue())
