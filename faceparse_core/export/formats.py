"""Sets of labelled pictures in the formats that annotators use: ``convert`` brings one into another.

A set is read as ``Labelled`` pictures, one by one, and written by one of ``WRITERS``. The background is never a mask of
its own, and what nobody told (``UNTOLD`` in training data) is left out like it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from faceparse_core import images as pictures
from faceparse_core.export import runs
from faceparse_core.export.coco import Instances, Panoptic, read_coco
from faceparse_core.export.cvat import Cvat
from faceparse_core.export.labelled import Labelled, Writer
from faceparse_core.export.labelme import LabelMe, read_labelme
from faceparse_core.labels import LABELS, NUM_LABELS

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class ClassPngs(Writer):
    """PNGs with a class list, as Supervisely exports them: ``masks_machine/NAME.png`` (grey, a pixel's value is its
    id), ``masks_human/NAME.png`` (in colour), ``obj_class_to_machine_color.json``."""

    def add(self, one: Labelled) -> None:
        labels = np.where(one.labels < NUM_LABELS, one.labels, 0).astype(np.uint8)
        machine, human = (self.file(folder, one, ".png") for folder in ("masks_machine", "masks_human"))
        Image.fromarray(labels).save(machine)
        palette = np.array([label.colour for label in LABELS], np.uint8)
        Image.fromarray(palette[labels]).save(human)

    def close(self) -> None:
        classes = {label.title: [label.id] * 3 for label in LABELS[1:]}
        self.write_json("obj_class_to_machine_color.json", classes)


class TrainingData(Writer):
    """The layout of ``faceparse train``: ``images/``, ``masks/``, and all names in ``train.txt``."""

    def __init__(self, out: Path):
        super().__init__(out)
        self.names: list[str] = []

    def add(self, one: Labelled) -> None:
        if one.picture is None:
            raise ValueError(f"{one.name} is not there as a picture: training data needs it; give --images")
        name = "_".join(Path(one.name).with_suffix("").parts)
        if name in self.names:
            raise ValueError(f"there are two pictures that would be called {name} in the training data: rename one")
        for folder in ("images", "masks"):
            (self.out / folder).mkdir(exist_ok=True)
        suffix = one.picture.suffix.lower()
        if suffix in _PICTURES:
            shutil.copyfile(one.picture, self.out / "images" / f"{name}{suffix}")
        else:
            pictures.save(pictures.load(one.picture)[0], self.out / "images" / f"{name}.png")
        Image.fromarray(one.labels).save(self.out / "masks" / f"{name}.png")
        self.names.append(name)

    def close(self) -> None:
        (self.out / "train.txt").write_text("\n".join(self.names) + "\n", encoding="utf-8")


WRITERS: dict[str, type[Writer]] = {
    "coco-instances": Instances,
    "coco-panoptic": Panoptic,
    "labelme": LabelMe,
    "cvat": Cvat,
    "png": ClassPngs,
    "data": TrainingData,
}
"""Formats by name."""


def convert(
    source: str | Path,
    kind: str,
    out: str | Path,
    *,
    images: str | Path | None = None,
    told: Callable[[int], None] = lambda count: None,
) -> int:
    """Writes ``source`` into the folder ``out`` in the format ``kind`` (see ``WRITERS``); how many pictures.

    ``source``: a folder of training data (images/, masks/), of ``faceparse batch``, of what ``faceparse`` wrote
    (NAME.labels.png) or of LabelMe's .json files; or COCO's .json, of instances or panoptic. ``images``: where the
    pictures lie, if not where the source says. ``told(pictures)`` is called after each. Raises ValueError for what
    cannot be read or written, FileNotFoundError for what is missing, FileExistsError if ``out`` holds something.
    """
    if kind not in WRITERS:
        raise ValueError(f"unknown format {kind!r}: choose one of {', '.join(WRITERS)}")
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty: give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    writer, count = WRITERS[kind](out), 0
    for one in read(Path(source), Path(images) if images else None):
        writer.add(one)
        count += 1
        told(count)
    if not count:
        raise FileNotFoundError(f"{source} holds no labelled pictures")
    writer.close()
    return count


def read(source: Path, images: Path | None = None) -> Iterator[Labelled]:
    """The labelled pictures of a set, see ``convert``."""
    if source.is_file() and source.suffix.lower() == ".json":
        yield from read_coco(source, images)
    elif not source.is_dir():
        raise FileNotFoundError(f"there is no {source}: give a folder, or COCO's .json")
    elif (source / "masks").is_dir():
        yield from _of_data(source)
    elif any(source.glob("part-*.parquet")):
        yield from _of_shards(source, images)
    elif any(source.rglob("*.labels.png")):
        yield from _of_label_pngs(source, images)
    elif any(source.rglob("*.json")):
        yield from read_labelme(source, images)
    else:
        raise FileNotFoundError(
            f"{source} holds neither images/ and masks/ nor part-*.parquet, *.labels.png or LabelMe's *.json"
        )


def _of_data(source: Path) -> Iterator[Labelled]:
    for mask in sorted((source / "masks").glob("*.png")):
        found = [path for suffix in _PICTURES if (path := source / "images" / f"{mask.stem}{suffix}").is_file()]
        if not found:
            raise FileNotFoundError(f"{source / 'images'} has no picture of the name {mask.stem}")
        yield Labelled(found[0].name, found[0], _ids(mask))


def _of_label_pngs(source: Path, images: Path | None) -> Iterator[Labelled]:
    for mask in sorted(source.rglob("*.labels.png")):
        name = mask.relative_to(source).with_name(mask.name.removesuffix(".labels.png"))
        found = [path for path in sorted(((images or source) / name.parent).glob("*")) if path.stem == name.name]
        found = [path for path in found if path.suffix.lower() in _PICTURES]
        shown = name.with_name(found[0].name) if found else name.with_name(f"{name.name}.png")
        yield Labelled(shown.as_posix(), found[0] if found else None, _ids(mask))


def _of_shards(source: Path, images: Path | None) -> Iterator[Labelled]:
    import pyarrow.parquet as pq

    for file in sorted(source.glob("part-*.parquet")):
        for row in pq.read_table(file, columns=["path", "width", "height", "labels", "error"]).to_pylist():
            if row["error"] is not None:
                continue
            masks = {label["id"]: label["counts"] for label in row["labels"]}
            path = Path(row["path"])
            name = "/".join(part for part in path.parts if part not in (path.anchor, ".."))
            picture = images / path.name if images else path
            labels = runs.decoded(masks, row["height"], row["width"])
            yield Labelled(name, picture if picture.is_file() else None, labels)


def _ids(mask: Path) -> np.ndarray:
    """The ids in a PNG, uint8 [H, W]."""
    with Image.open(mask) as picture:
        if picture.mode not in ("L", "P"):
            raise ValueError(f"{mask} holds no ids: it is of mode {picture.mode}, and must be grey or indexed")
        return np.array(picture)
