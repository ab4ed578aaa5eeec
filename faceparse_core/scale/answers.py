"""Answers: what is told of a parsed picture, as values and files, and the three ways to send them."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.parser import FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.scale.asking import Asked, Limits, Options
from faceparse_core.scale.records import base64_text, jpeg, label_png, png, record


@dataclass(frozen=True)
class Answer:
    """What is told of one picture: ``values``, ready for JSON, and ``files``, each with its name and bytes.

    ``masks`` names the file of each region.
    """

    values: dict
    files: dict[str, bytes]
    masks: dict[str, str]


def answer(parsing: Parsing, image: Tensor, options: Options) -> Answer:
    """What ``options`` ask of the parsing of a single ``image``, [H, W, 3]."""
    files: dict[str, bytes] = {}
    masks: dict[str, str] = {}
    if options.labels == "png":
        files["labels.png"] = label_png(parsing)
    for number, region in enumerate(options.regions):
        masks[region] = f"mask.{number}.png"
        mask = parsing.mask(region, soft=options.soft, face=options.face)[0]
        files[masks[region]] = png(pictures.to_pil(mask))
    if options.overlay:
        files["overlay.jpg"] = jpeg(pictures.to_pil(parsing.overlay([image])[0]), quality=90)
    return Answer(record(parsing, run_lengths=options.labels == "rle"), files, masks)


def in_json(model: str, answers: Sequence[Answer]) -> bytes:
    """The answers as one JSON text, files in base64: ``label_map``, ``masks`` by region, ``overlay``."""
    told = [_told(one, partial(_in_base64, one)) for one in answers]
    return json.dumps({"model": model, "images": told}).encode()


def _in_base64(one: Answer, name: str) -> str:
    return base64_text(one.files[name])


def _told(one: Answer, file: Callable[[str], str]) -> dict:
    """The values of an answer with what ``file`` says of each of its files."""
    values = dict(one.values)
    if "labels.png" in one.files:
        values["label_map"] = file("labels.png")
    if one.masks:
        values["masks"] = {region: file(name) for region, name in one.masks.items()}
    if "overlay.jpg" in one.files:
        values["overlay"] = file("overlay.jpg")
    return values


def in_zip(model: str, answers: Sequence[Answer]) -> bytes:
    """The answers as a zip: ``answer.json`` and the files that it names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # pictures are packed already
        for name, data in _files(model, answers).items():
            archive.writestr(name, data)
    return file.getvalue()


def in_parts(model: str, answers: Sequence[Answer]) -> tuple[bytes, str]:
    """The answers as multipart/mixed: ``answer.json``, then the files that it names; and the type with its boundary."""
    boundary = uuid.uuid4().hex
    kinds = {"json": "application/json", "png": "image/png", "jpg": "image/jpeg"}
    body = b""
    for name, data in _files(model, answers).items():
        kind = kinds[name.rpartition(".")[2]]
        head = f'--{boundary}\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename="{name}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/mixed; boundary={boundary}"


def _files(model: str, answers: Sequence[Answer]) -> dict[str, bytes]:
    """All files of the answers, those of a picture under its number, and first the one that tells of them."""
    told: list[dict] = []
    files: dict[str, bytes] = {}
    for number, one in enumerate(answers):
        told.append(_told(one, f"{number}.{{}}".format))
        files |= {f"{number}.{name}": data for name, data in one.files.items()}
    return {"answer.json": json.dumps({"model": model, "images": told}).encode(), **files}


def answered(parser: FaceParser, asked: Asked[Options], limits: Limits) -> bytes:
    """The whole way of one request without a queue, for servers that bring their own: JSON.

    Raises ValueError for what is no picture or too large.
    """
    images = decoded(asked, limits)
    parsing = parser.parse(images, faces=asked.options.faces)
    answers = [answer(parsing[i], image, asked.options) for i, image in enumerate(images)]
    return in_json(parser.checkpoint.name, answers)


def decoded(asked: Asked, limits: Limits) -> list[Tensor]:
    """The pictures of a request."""
    return [
        pictures.decoded(data, name_of(i, len(asked.pictures)), most_pixels=limits.pixels)
        for i, data in enumerate(asked.pictures)
    ]


def name_of(index: int, count: int) -> str:
    """What a picture of a request is called in an error."""
    return "the image" if count == 1 else f"images[{index}]"
