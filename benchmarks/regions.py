"""The regions that are drawn on faces, and crops of faces: ``python -m benchmarks.regions [DATA]``.

How much the same region overlaps (intersection over union) when a portrait is parsed upright, and tilted and its masks
turned back; when it is drawn from parsed and from true labels. What drawing costs beside parsing; cropping and pasting.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import medians
from faceparse_core import FaceParser
from faceparse_core import images as pictures
from faceparse_core.faces import crop_faces, draw, extras, face_axes, find_faces, paste_faces
from faceparse_core.labels import DRAWN, resolve
from faceparse_core.training.data import read_names, read_pair

_CLOSEUP = Path(__file__).parents[1] / "samples" / "closeup.jpg"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path, nargs="?", default=Path("../shared/data/celebamask-mini"))
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--only", choices=["overlap", "cost"])
    args = arguments.parse_args()
    parser = FaceParser(args.model, args.device)
    if args.only != "cost":
        _overlap(parser, [read_pair(args.data, name) for name in read_names(args.data, "val")])
    if args.only != "overlap":
        _cost(parser)


def _overlap(parser: FaceParser, pairs: list) -> None:
    """Means over the portraits on which both have the region, in at least 200 pixels of one."""
    columns = {angle: {name: [] for name in DRAWN} for angle in ("true labels", 15, -30, 45)}
    tilts = {angle: [] for angle in columns}
    for image, truth in pairs:
        upright = _labels(parser, image)
        for angle, overlaps in columns.items():
            if angle == "true labels":
                other, back = np.asarray(truth), 0
            else:
                other, back = _labels(parser, np.asarray(Image.fromarray(image).rotate(-angle, Image.BICUBIC))), angle
            axes = [_axes(labels) for labels in (upright, other)]
            if all(axes):
                tilts[angle].append(abs((axes[1].angle - axes[0].angle - back + 180) % 360 - 180))
            for name, found in overlaps.items():
                one, two = _drawn(upright, name), _drawn(other, name)
                two = np.asarray(Image.fromarray(two).rotate(back))
                if max(one.sum(), two.sum()) >= 200 and all(axes):
                    found.append((one & two).sum() / (one | two).sum())
    print(
        "overlap with the region on the upright, parsed portrait\n" + " " * 12 + "".join(f"{a!s:>13}" for a in columns)
    )
    for name in DRAWN:
        print(f"{name:12}" + "".join(f"{statistics.mean(columns[angle][name]):13.2f}" for angle in columns))
    print("tilt, degrees off" + "".join(f"  {angle}: {statistics.mean(off):.1f}" for angle, off in tilts.items()))


def _labels(parser: FaceParser, image: np.ndarray) -> np.ndarray:
    return parser.parse(image).labels[0].numpy()


def _axes(labels: np.ndarray):
    labels = torch.from_numpy(labels)
    faces = find_faces(labels)
    return face_axes(labels, faces[0]) if faces else None


def _drawn(labels: np.ndarray, name: str) -> np.ndarray:
    """The hard mask of a drawn region, bool [H, W]."""
    mask = np.zeros(labels.shape, dtype=bool)
    region, tensor = resolve(name), torch.from_numpy(labels)
    for face in find_faces(tensor):
        drawing = draw(tensor, face, (name,))
        if drawing:
            for label, there, extra in extras(region, [drawing], *map(slice, (0, 0), labels.shape), soft=False):
                mask[there] |= (extra.numpy() > 0) & (labels[there] == label)
    return mask


def _cost(parser: FaceParser) -> None:
    closeup = pictures.load(_CLOSEUP)[0]
    for size, times in ((512, 20), (4096, 3)):
        image = pictures.resize(closeup, (size, size))
        parsing = parser.parse(image)
        labels, face = parsing.labels[0], parsing.faces[0][0]
        print(f"{size}x{size}, milliseconds:")
        rows: dict[str, Callable] = {
            "parse, labels": lambda image=image: parser.parse(image).labels,
            "draw the forehead": lambda labels=labels, face=face: draw(labels, face, ("forehead",)),
            "draw all": lambda labels=labels, face=face: draw(labels, face),
        }
        for soft in (False, True):
            for region in ("skin", "forehead", "face - under eyes"):
                rows[f"mask of {region}{', soft' * soft}"] = lambda region=region, soft=soft, parsing=parsing: (
                    parsing.mask(region, soft=soft)
                )
        for align in (False, True):
            crops, _, places = crop_faces(image, parsing, size=512, align=align)
            kind = ", turned" * align
            rows[f"crop to 512{kind}"] = lambda i=image, p=parsing, a=align: crop_faces(i, p, size=512, align=a)
            rows[f"paste{kind}"] = lambda i=image, c=crops, p=places: paste_faces(i, c, p)
        for name, work in rows.items():
            work()
            print(f"  {name:32}{1000 * medians(work, rounds=times)[0]:8.1f}")


if __name__ == "__main__":
    main()
