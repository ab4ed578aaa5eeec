"""What is told of a parsed picture, in plain values: the row of a shard, the heart of the endpoint's answer."""

from __future__ import annotations

import base64
import io

from PIL import Image

from faceparse_core import images as pictures
from faceparse_core.export import runs
from faceparse_core.labels import LABELS
from faceparse_core.parsing import Parsing

_IDS = {label.title: label.id for label in LABELS}


def record(parsing: Parsing, *, run_lengths: bool = True) -> dict:
    """The figures of the parsing of a single picture: ``width``, ``height``, ``faces`` and ``labels``.

    ``faces``: of each its index, box, angle, score and landmarks. ``labels``: of each that is there (the background
    left out) its id, name, pixels, share, box (x, y, width, height), centre (x, y) and, with ``run_lengths``, its mask
    as ``counts``: COCO's packed run lengths.
    """
    (figures,) = parsing.figures()
    masks = runs.encoded(parsing.labels[0].numpy()) if run_lengths else {}
    labels = []
    for name, values in figures["labels"].items():
        one = {"id": _IDS[name], "name": name, **values, "box": list(values["box"])}
        labels.append(one | ({"counts": masks[one["id"]]} if run_lengths else {}))
    return {**figures, "labels": labels}


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file, packed quickly rather than tightly."""
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality)
    return file.getvalue()


def label_png(parsing: Parsing) -> bytes:
    """The labels of a single picture as an indexed PNG: a pixel's value is the id of its label."""
    return png(pictures.indexed(parsing.labels[0]))


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
