"""Anchors of faces against those of hand-drawn labels, and the time of try-on.

``python -m benchmarks.anchors DATA [--threads 2]``. DATA is a folder with images/, masks/ and val.txt. Each portrait is
parsed by ``lite``; the eyes and ears of the true masks are told from the masks alone, without the code that is
measured. An eye is the centre of its pixels; which is the left one, their place says, for some masks have them
exchanged. The tilt is that of the line through both. An ear's lobe is the middle of the lowest tenth of its pixels
across and the 98th hundredth of them down, along the true tilt, where at least 30 pixels of it are drawn. Left out are
portraits of which not both eyes are drawn. Distances are in parts of that between the true eyes.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import medians
from faceparse_core import FaceParser, edits
from faceparse_core import images as pictures
from faceparse_core.labels import GROUPS
from faceparse_core.training.data import read_names, read_pair

_FEWEST = 20, 30  # pixels of an eye, of an ear


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--threads", type=int, default=2)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    parser = FaceParser("lite", "cpu")
    found: dict[str, list[float]] = {"eyes": [], "angle": [], "ears": []}
    without = unseen = 0
    names = read_names(args.data, "val")
    for name in names:
        image, labels = read_pair(args.data, name)
        eyes = _eyes(labels)
        if eyes is None:
            without += 1
            continue
        parsing = parser.parse(image)
        face = max(parsing.faces[0], key=lambda one: one.width * one.height, default=None)
        others = [one for one in parsing.faces[0] if one is not face]
        anchors = face and edits.find_anchors(parsing.labels[0], face, others)
        if not anchors:
            unseen += 1
            continue
        between = eyes["left"] - eyes["right"]
        far, tilt = float(np.linalg.norm(between)), math.degrees(math.atan2(between[1], between[0]))
        found["angle"].append(abs((anchors.frame.angle - tilt + 180) % 360 - 180))
        for side, place in eyes.items():
            found["eyes"].append(float(np.linalg.norm(anchors.in_picture(f"{side} eye") - place)) / far)
            lobe = _lobe(labels, side, (eyes["left"] + eyes["right"]) / 2, tilt)
            if lobe is not None and f"{side} ear" in anchors.seen:
                found["ears"].append(float(np.linalg.norm(anchors.in_picture(f"{side} ear") - lobe)) / far)
    print(f"{len(names)} portraits, {without} without both eyes in the mask, {unseen} without anchors")
    for what, bar, unit, scale in (("eyes", 0.03, "%", 100), ("angle", 2, "°", 1), ("ears", 0.06, "%", 100)):
        values = np.array(found[what]) * scale
        nine, within = np.quantile(values, 0.9), (values <= bar * scale).mean()
        print(
            f"{what}: {len(values)}, median {np.median(values):.2f}{unit}, mean {values.mean():.2f}{unit}, "
            f"nine tenths within {nine:.2f}{unit}; within {bar * scale:g}{unit}: {within:.1%}"
        )
    _time(parser, read_pair(args.data, names[0])[0])


def _eyes(labels: np.ndarray) -> dict[str, np.ndarray] | None:
    """The centres (x, y) of the subject's eyes in a mask of an upright portrait."""
    centres = []
    for label in GROUPS["eyes"]:
        y, x = (labels == label).nonzero()
        if len(x) < _FEWEST[0]:
            return None
        centres.append(np.array([x.mean() + 0.5, y.mean() + 0.5]))
    right, left = sorted(centres, key=lambda centre: centre[0])
    return {"left": left, "right": right}


def _lobe(labels: np.ndarray, side: str, middle: np.ndarray, tilt: float) -> np.ndarray | None:
    """The lobe (x, y) of the ear on a side of the face."""
    y, x = np.isin(labels, GROUPS["ears"]).nonzero()
    own = (x > middle[0]) == (side == "left")
    if own.sum() < _FEWEST[1]:
        return None
    x, y = x[own] + 0.5, y[own] + 0.5
    sine, cosine = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    across, down = x * cosine + y * sine, y * cosine - x * sine
    u, v = across[down >= np.quantile(down, 0.9)].mean(), np.quantile(down, 0.98)
    return np.array([u * cosine - v * sine, u * sine + v * cosine])


def _time(parser: FaceParser, image: np.ndarray) -> None:
    small, large = (pictures.resize(torch.from_numpy(image), (side, side)) for side in (512, 1024))
    parsing = parser.parse(large)
    labels, faces = parsing.labels, parsing.faces
    pieces = edits.piece_names()
    fronts = {}
    for name in pieces:
        behind = edits.piece(name).behind
        fronts[name] = parsing.mask(behind, soft=True) if behind else None
    look, *others = medians(
        lambda: parser.parse(small).labels,
        *(partial(_worn, large, name, labels, faces, fronts[name]) for name in pieces),
    )
    print(f"1024x1024, masks at hand, in units of one look of lite ({look * 1000:.0f} ms):")
    for name, seconds in zip(pieces, others, strict=True):
        print(f"  {name}: {seconds / look:.2f}")


def _worn(image: torch.Tensor, name: str, labels: torch.Tensor, faces: list, front: torch.Tensor | None) -> None:
    try:
        edits.try_on(image, edits.piece(name), labels, faces, front=front)
    except ValueError as error:  # no ear is seen
        print(error)


if __name__ == "__main__":
    main()
