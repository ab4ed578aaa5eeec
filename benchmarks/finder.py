"""Faces found in photos: ``python -m benchmarks.finder DATA BOXES [--weights FILE] [--only photos masked …]``.

DATA holds ``faces`` (photos), ``masked`` (people with masks, of which every second picture was kept out of training)
and ``backgrounds-val`` (pictures without people); BOXES is the file of the photos' reference boxes and marks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from faceparse_core import FaceParser
from faceparse_core.faces import WEIGHTS, Finder
from faceparse_core.labels import region_ids
from faceparse_core.training.data import PICTURE_SUFFIXES, read_names, read_pair
from faceparse_core.training.photos import held_back

Boxes = list[tuple[float, float, float, float, float]]
"""Of each face found left, top, right, bottom, score."""


def is_found(box: list[float], marks: list[list[float]] | None, found: Boxes) -> bool:
    """Whether a reference face (x, y, width, height …) is found: at least four of its five marks within a box that is
    made wider by 15%, whose height is its own within a factor of three. Without marks: five points of its box."""
    x, y, width, height = box[:4]
    if marks is None:
        marks = [
            [x + a * width, y + b * height] for a, b in ((0.3, 0.35), (0.7, 0.35), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
        ]
    for left, top, right, bottom, _ in found:
        aside, above = 0.075 * (right - left), 0.075 * (bottom - top)
        inside = sum(left - aside <= a <= right + aside and top - above <= b <= bottom + above for a, b in marks)
        if inside >= 4 and 1 / 3 < (bottom - top) / height < 3:
            return True
    return False


def share(name: str, hits: Iterable[bool]) -> None:
    hits = list(hits)
    print(f"{name}: {np.mean(hits) if hits else float('nan'):.3f} ({sum(hits)} of {len(hits)})")


def photos(find: Callable[[Image.Image], Boxes], data: Path, rows: dict) -> None:
    """Faces of the photos, by their height; only where the reference is sure."""
    sure, small, count = [], [], 0
    for name, row in rows.items():
        found = find(Image.open(data / "faces" / "images" / name).convert("RGB"))
        count += len(found)
        for box, marks in zip(row["faces"], row["marks"], strict=True):
            if box[4] >= 0.98 and box[3] >= 32:
                (sure if box[3] >= 64 else small).append(is_found(box, marks, found))
    share("photos, 64 pixels and more", sure)
    share("photos, 32 to 64 pixels", small)
    print(f"photos: {count} found in all, the reference has {sum(len(row['faces']) for row in rows.values())}")


def masked(find: Callable[[Image.Image], Boxes], data: Path, rows: dict) -> None:
    """Faces with masks of 40 pixels and more in the pictures kept out of training."""
    boxes = json.loads((data / "masked" / "boxes.json").read_text())
    kinds: dict[str, list[bool]] = {}
    for name in held_back(boxes):
        found = find(Image.open(data / "masked" / "images" / f"{name}.png").convert("RGB"))
        for *box, kind in boxes[name]:
            size = "40 and more" if box[3] >= 40 else "20 to 40" if box[3] >= 20 else None
            if size:
                kinds.setdefault(f"masked, {size}, {kind}", []).append(is_found(box, None, found))
    for kind in sorted(kinds):
        share(kind, kinds[kind])


def empty(find: Callable[[Image.Image], Boxes], data: Path, rows: dict) -> None:
    """Faces where nobody is, each picture at its own size and twice as large."""
    paths = sorted(p for p in (data / "backgrounds-val").iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    scores = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        for times in (1, 2):
            scores += [box[4] for box in find(picture.resize((picture.width * times, picture.height * times)))]
    print(f"false faces a picture without people: {len(scores) / (2 * len(paths)):.3f} ({2 * len(paths)} pictures)"
          f" {[round(s, 2) for s in sorted(scores, reverse=True)[:12]]}")  # fmt: skip


def hair(find: Callable[[Image.Image], Boxes], data: Path, rows: dict) -> None:
    """The hair of heads, many of them from behind: with faces found against the whole picture parsed as one."""
    parser = FaceParser("lite")
    overlaps: dict[str, list[float]] = {"auto": [], "image": []}
    for name in read_names(data / "hair", "val"):
        picture, mask = read_pair(data / "hair", name)
        true = mask == region_ids("hair")[0]
        for faces, values in overlaps.items():
            seen = parser.parse(picture, faces=faces).mask("hair")[0].numpy() > 0
            values.append((seen & true).sum() / max(1, (seen | true).sum()))
    print("hair: mean IoU " + ", ".join(f"{np.mean(values):.3f} with {faces!r}" for faces, values in overlaps.items()))


MEASURES = {"photos": photos, "masked": masked, "empty": empty, "hair": hair}


def finder_of(weights: Path) -> Callable[[Image.Image], Boxes]:
    """Finds as ``parse`` does: what the parser sees nothing of is no face."""
    parser = FaceParser("lite")
    parser._finder = Finder.of(weights, parser.device, parser.precision)

    def find(picture: Image.Image) -> Boxes:
        (faces,) = parser.parse(picture).faces
        return [(face.x, face.y, face.x + face.width, face.y + face.height, face.score) for face in faces]

    return find


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("boxes", type=Path)
    arguments.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="of a training run; the bundled ones if not given"
    )
    arguments.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    args = arguments.parse_args()
    rows, find = json.loads(args.boxes.read_text()), finder_of(args.weights)
    for name in args.only:
        start = time.perf_counter()
        MEASURES[name](find, args.data, rows)
        print(f"({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
