"""COCO: instances (run lengths, as pycocotools has them) and panoptic (PNGs of segments), there and back.

A label is a category with its id and title, and has one mask in a picture, whoever it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from faceparse_core.export import runs
from faceparse_core.export.labelled import Labelled, Writer, found_picture, id_of
from faceparse_core.labels import LABELS

# COCO counts pictures and masks from 1 on.
_FIRST = 1


class _Coco(Writer):
    def __init__(self, out: Path):
        super().__init__(out)
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def note(self, one: Labelled) -> int:
        """Lists a picture; its id."""
        height, width = one.labels.shape
        number = len(self.images) + _FIRST
        self.images.append({"id": number, "file_name": one.name, "width": width, "height": height})
        return number

    def write(self, name: str, **of_categories: int) -> None:
        categories = [
            {"id": label.id, "name": label.title, "supercategory": "person", **of_categories} for label in LABELS[1:]
        ]
        self.write_json(
            name,
            {
                "info": {"description": "labels of faces, by faceparse"},
                "images": self.images,
                "categories": categories,
                "annotations": self.annotations,
            },
        )


class Instances(_Coco):
    """``instances.json``: of each label in a picture its mask as packed run lengths, area and box."""

    def add(self, one: Labelled) -> None:
        number, (height, width) = self.note(one), one.labels.shape
        packed = runs.encoded(one.labels)
        for label, mask, box in one.masks():
            self.annotations.append(
                {
                    "id": len(self.annotations) + _FIRST,
                    "image_id": number,
                    "category_id": label.id,
                    "segmentation": {"size": [height, width], "counts": packed[label.id]},
                    "area": int(mask.sum()),
                    "bbox": list(box),
                    "iscrowd": 0,
                }
            )

    def close(self) -> None:
        self.write("instances.json")


class Panoptic(_Coco):
    """``panoptic.json`` and ``panoptic/NAME.png``: RGB, a pixel's red is the id of its segment: the label's."""

    def add(self, one: Labelled) -> None:
        number = self.note(one)
        file = self.file("panoptic", one, ".png")
        segments, pixels = [], np.zeros((*one.labels.shape, 3), np.uint8)
        for label, mask, box in one.masks():
            pixels[mask, 0] = label.id
            segments.append(
                {"id": label.id, "category_id": label.id, "area": int(mask.sum()), "bbox": list(box), "iscrowd": 0}
            )
        Image.fromarray(pixels).save(file)
        name = file.relative_to(self.out / "panoptic").as_posix()
        self.annotations.append({"image_id": number, "file_name": name, "segments_info": segments})

    def close(self) -> None:
        self.write("panoptic.json", isthing=0)


def read_coco(source: Path, images: Path | None) -> Iterator[Labelled]:
    """The pictures of COCO's .json, instances or panoptic. Categories must be called like our labels.

    Masks are run lengths, packed or not, or polygons; later ones lie over earlier ones. Of panoptic sets the PNGs lie
    in a folder of the .json's name beside it.
    """
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
        labels = {one["id"]: id_of(one["name"], source) for one in values["categories"]}
        of_picture: dict[object, list[dict]] = {one["id"]: [] for one in values["images"]}
        for annotation in values["annotations"]:
            of_picture[annotation["image_id"]].append(annotation)
        for one in values["images"]:
            shape = one["height"], one["width"]
            drawn = np.zeros(shape, np.uint8)
            for annotation in of_picture[one["id"]]:
                if "segments_info" in annotation:
                    _draw_segments(drawn, annotation, source.with_suffix(""), labels)
                else:
                    drawn[_mask(annotation["segmentation"], *shape)] = labels[annotation["category_id"]]
            yield Labelled(one["file_name"], found_picture(one["file_name"], images or source.parent), drawn)
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} is no COCO file: {type(error).__name__} {error}") from error


def _draw_segments(drawn: np.ndarray, annotation: dict, folder: Path, labels: dict) -> None:
    file = found_picture(annotation["file_name"], folder)
    if file is None:
        raise FileNotFoundError(f"{folder / annotation['file_name']} is missing, which holds the segments of a picture")
    with Image.open(file) as picture:
        red, green, blue = (np.asarray(band, np.int64) for band in picture.convert("RGB").split())
    ids = red + 256 * green + 65536 * blue
    if ids.shape != drawn.shape:
        raise ValueError(f"{file} has {ids.shape[1]}x{ids.shape[0]} pixels, its picture {drawn.shape[::-1]}")
    for segment in annotation["segments_info"]:
        drawn[ids == segment["id"]] = labels[segment["category_id"]]


def _mask(segmentation: dict | list, height: int, width: int) -> np.ndarray:
    """The mask, bool [H, W], of run lengths or polygons."""
    if isinstance(segmentation, dict):
        return runs.mask(segmentation["counts"], height, width)
    mask = Image.new("1", (width, height))
    for polygon in segmentation:
        ImageDraw.Draw(mask).polygon([float(value) for value in polygon], fill=1)
    return np.array(mask)
