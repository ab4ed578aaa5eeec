"""LabelMe: a .json for each picture, there and back. We write masks, and read polygons, rectangles and circles, too."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from faceparse_core.errors import explained
from faceparse_core.export.labelled import Labelled, Writer, found_picture, id_of

_VERSION = "5.4.1"  # of the files: LabelMe has known masks since 5.2


class LabelMe(Writer):
    """``NAME.json`` for each picture, which it names by a path relative to itself; each label is a mask."""

    def add(self, one: Labelled) -> None:
        file, (height, width) = self.file("", one, ".json"), one.labels.shape
        shapes: list[dict] = []
        for label, mask, (x, y, across, down) in one.masks():
            part = io.BytesIO()
            Image.fromarray(mask[y : y + down, x : x + across]).save(part, format="PNG")
            shapes.append(
                {
                    "label": label.title,
                    "points": [[x, y], [x + across - 1, y + down - 1]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "mask",
                    "flags": {},
                    "mask": base64.b64encode(part.getvalue()).decode("ascii"),
                }
            )
        picture = os.path.relpath(one.picture, file.parent) if one.picture else Path(one.name).name
        values = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(picture).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        file.write_text(json.dumps(values), encoding="utf-8")


def read_labelme(source: Path, images: Path | None) -> Iterator[Labelled]:
    """The pictures of a folder's .json files; shapes must be called like our labels, later ones lie over earlier."""
    for file in sorted(source.rglob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            height, width = values["imageHeight"], values["imageWidth"]
            drawn = np.zeros((height, width), np.uint8)
            for shape in values["shapes"]:
                drawn[_mask(shape, height, width)] = id_of(shape["label"], file)
            picture = Path(values["imagePath"].replace("\\", "/"))
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is no file of LabelMe: {type(error).__name__} {error}") from error
        found = found_picture(picture.name, images) if images else found_picture(str(picture), file.parent)
        yield Labelled(file.relative_to(source).with_suffix(picture.suffix or ".png").as_posix(), found, drawn)


def _mask(shape: dict, height: int, width: int) -> np.ndarray:
    """The mask of one shape, bool [H, W]."""
    kind, points = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if kind == "mask":
        with explained("a mask in it cannot be decoded"):
            part = Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]).convert("1")
        canvas.paste(part, (round(points[0][0]), round(points[0][1])))
    elif kind == "polygon":
        draw.polygon(points, fill=1)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
        draw.rectangle((left, top, right, bottom), fill=1)
    elif kind == "circle":
        (x, y), edge = points
        radius = float(np.hypot(edge[0] - x, edge[1] - y))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    else:
        raise ValueError(f"a shape of the kind {kind!r} covers no area: polygon, mask, rectangle and circle do")
    return np.array(canvas)
