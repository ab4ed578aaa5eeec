"""What the page of the endpoint (``/docs``) says of a request, with an example that runs as it stands."""

from __future__ import annotations

from pathlib import Path

from faceparse_core import images as pictures
from faceparse_core.edits import AREAS, LOOKS, WAYS, piece_names
from faceparse_core.edits.several import BACKGROUNDS, PARTS
from faceparse_core.labels import LABELS
from faceparse_core.scale.asking import LABELS_AS
from faceparse_core.scale.records import base64_text, jpeg

_PORTRAIT = Path(__file__).parents[1] / "weights" / "portrait.jpg"
_SIDE = 112
_BASE64 = {"type": "string", "description": "the bytes of a picture's file in base64"}
_FILE = {"type": "string", "format": "binary"}


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
    example = {"image": small_portrait(), "labels": "rle", "regions": ["hair", "face - eyes - lips"]}
    file = {"type": "array", "items": _FILE, "description": "one or several"}
    return {
        "requestBody": _two_forms(
            {"image": _BASE64, "images": {"type": "array", "items": _BASE64}}, file, asked, example
        ),
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
        "look": {"type": "string", "enum": list(LOOKS), "description": "make-up; in JSON also an object of steps"},
        "smooth": {"type": "number", "default": 0, "description": "how much the skin is smoothed, 0..1"},
        "strength": {"type": "number", "default": 1, "description": "how much of make-up and colours is seen, 0..1"},
        "like": {
            "type": "string",
            "enum": _hyphened(piece_names()),
            "description": "what pictures to wear are laid on as",
        },
        "privacy": {"type": "string", "enum": _hyphened(WAYS), "description": "hides everybody's face, or the area"},
        "area": {"type": "string", "enum": _hyphened(AREAS), "default": "face", "description": "what privacy hides"},
        "spare": {"type": "string", "description": "whose face privacy leaves alone: largest, or an index"},
        "background": {"type": "string", "description": f"{', '.join(BACKGROUNDS)}, or a colour"},
        "radius": {"type": "number", "default": 2, "description": "of the blur, in percent of the longer side"},
        "faces": {"type": "string", "enum": ["auto", "image"], "default": "auto"},
    }
    example = {"image": small_portrait(), "hair": "#7a1f2b", "wear": ["round-glasses"], "background": "blur"}
    names = {"type": "string", "enum": _hyphened(piece_names())}
    own = {"type": "object", "properties": {"image": _BASE64}, "required": ["image"]}
    wear = {"type": "array", "description": "tried on by everybody: by name, or pictures with transparency"}
    body = _two_forms({"image": _BASE64}, _FILE, asked, example)
    for kind, picture in (("application/json", own), ("multipart/form-data", _FILE)):
        body["content"][kind]["schema"]["properties"]["wear"] = {**wear, "items": {"oneOf": [names, picture]}}
    return {
        "requestBody": body,
        "responses": {"200": {"description": "the changed picture", "content": {"image/png": {}}}},
    }


def _hyphened(names: tuple[str, ...]) -> list[str]:
    """Names as the command line has them, too."""
    return [name.replace(" ", "-") for name in names]


def _two_forms(pictures_in_json: dict, picture_in_form: dict, asked: dict, example: dict) -> dict:
    """The body of a request: pictures, and beside them what is ``asked``; as JSON and as a form."""
    in_json = {"type": "object", "properties": {**pictures_in_json, **asked}, "example": example}
    in_form = {"type": "object", "properties": {"image": picture_in_form, **asked}, "required": ["image"]}
    return {
        "required": True,
        "content": {"application/json": {"schema": in_json}, "multipart/form-data": {"schema": in_form}},
    }


def small_portrait() -> str:
    """A picture for examples, in base64."""
    face = pictures.load(_PORTRAIT)[0][8:252, 100:344]
    return base64_text(jpeg(pictures.to_pil(pictures.resize(face, (_SIDE, _SIDE))), quality=80))
