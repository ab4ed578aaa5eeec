"""CVAT for images 1.1: one XML with masks as run lengths, for *Upload annotations* of a task with these labels."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from faceparse_core.export.labelled import Labelled, Writer
from faceparse_core.labels import LABELS


class Cvat(Writer):
    """``annotations.xml``, and ``labels.json`` for the raw editor of the task's labels."""

    def __init__(self, out: Path):
        super().__init__(out)
        self.root = ElementTree.Element("annotations")
        ElementTree.SubElement(self.root, "version").text = "1.1"
        self.count = 0

    def add(self, one: Labelled) -> None:
        height, width = one.labels.shape
        values = {"id": str(self.count), "name": one.name, "width": str(width), "height": str(height)}
        image = ElementTree.SubElement(self.root, "image", values)
        for label, mask, (x, y, across, down) in one.masks():
            lengths = row_lengths(mask[y : y + down, x : x + across])
            place = {"left": x, "top": y, "width": across, "height": down}
            ElementTree.SubElement(
                image,
                "mask",
                {
                    "label": label.title,
                    "source": "auto",
                    "occluded": "0",
                    "rle": ", ".join(map(str, lengths)),
                    **{name: str(value) for name, value in place.items()},
                    "z_order": "0",
                },
            )
        self.count += 1

    def close(self) -> None:
        ElementTree.ElementTree(self.root).write(self.out / "annotations.xml", encoding="utf-8", xml_declaration=True)
        labels = [
            {
                "name": label.title,
                "type": "mask",
                "color": "#{:02x}{:02x}{:02x}".format(*label.colour),
                "attributes": [],
            }
            for label in LABELS[1:]
        ]
        self.write_json("labels.json", labels)


def row_lengths(mask: np.ndarray) -> list[int]:
    """The lengths of a mask's runs along its rows, first of what is not in it; bool [H, W]."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0))
    return np.diff(edges, prepend=0, append=len(flat)).tolist()
