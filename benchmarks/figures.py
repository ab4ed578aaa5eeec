"""Figures of faces: eyes open against closed, and skin tone under coloured light.

``python -m benchmarks.figures DATA FRAMES [--portraits 200]``. DATA is a folder with images/ and val.txt (portraits of
CelebAMask-HQ), FRAMES the folder of the television frames of "Facial Keypoints" (YouTube Faces), sorted by eye:
``eyes.txt`` says which eyes are closed and which are open. Of the portraits all are open but those that it names, in
which nobody can tell (dark glasses, profiles, shadow). The area under the curve is that of ``eyes.open``.

Skin tone: each of twenty portraits as it is and under a warm and a cold light, its linear light multiplied by
(1.25, 1, 0.7) and (0.8, 1, 1.3), what is too bright cut off, and rounded to 8 bits as a file is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from faceparse_core import FaceParser, edits
from faceparse_core import images as pictures
from faceparse_core.training.data import read_names, read_pair

_CASTS = {"warm": (1.25, 1.0, 0.7), "cold": (0.8, 1.0, 1.3)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("frames", type=Path)
    arguments.add_argument("--portraits", type=int, default=200)
    arguments.add_argument("--threads", type=int, default=2)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    parser = FaceParser("lite", "cpu")
    lines = (Path(__file__).parent / "eyes.txt").read_text().splitlines()
    chosen = [line.split() for line in lines if line and not line.startswith("#")]
    found = {
        kind: [_openness(parser, args.frames / name) for one, name in chosen if one == kind]
        for kind in ("closed", "open")
    }
    untold = {name for kind, name in chosen if kind == "untold"}
    names = [name for name in read_names(args.data, "val")[: args.portraits] if name not in untold]
    found["portraits"] = [_openness(parser, read_pair(args.data, name)[0]) for name in names]
    for kind, values in found.items():
        print(f"{kind}: {len(values)}, of {sum(value is None for value in values)} nothing is told")
    closed, opened, portraits = (np.array([v for v in values if v is not None]) for values in found.values())
    print(f"area under the curve: frames {_area(closed, opened):.4f}, with the portraits "
          f"{_area(closed, np.concatenate([opened, portraits])):.4f}")  # fmt: skip
    _tone(parser, args.data, names[:20])


def _openness(parser: FaceParser, picture: Path | np.ndarray) -> float | None:
    """How open the eyes of the largest face are."""
    parsing = parser.parse(picture)
    face = max(parsing.faces[0], key=lambda one: one.width * one.height, default=None)
    return edits.face_figures(picture, parsing.labels, [[face]])[0][0]["eyes"]["open"] if face else None


def _area(low: np.ndarray, high: np.ndarray) -> float:
    """How probably one of ``high`` is larger than one of ``low``."""
    larger, same = low[:, None] < high[None], low[:, None] == high[None]
    return float((larger + same / 2).mean())


def _tone(parser: FaceParser, data: Path, names: list[str]) -> None:
    moved: dict[tuple[str, bool], list[float]] = {(cast, balance): [] for cast in _CASTS for balance in (False, True)}
    for name in names:
        image = pictures.as_float(torch.from_numpy(read_pair(data, name)[0]))
        parsing = parser.parse(image)
        for balance in (False, True):

            def angle(shown: torch.Tensor, parsing=parsing, balance=balance) -> float:
                told = edits.face_figures(shown, parsing.labels, parsing.faces, white_balance=balance)
                return told[0][0]["skin"]["ita"]

            before = angle(image)
            for cast, gains in _CASTS.items():
                moved[cast, balance].append(abs(angle(under(image, gains)) - before))
    for (cast, balance), values in moved.items():
        light = "balanced" if balance else "as it is"
        print(f"{cast} light, {light}: ITA moves by {np.mean(values):.1f} degrees, at most {np.max(values):.1f}")


def under(image: torch.Tensor, gains: tuple[float, float, float]) -> torch.Tensor:
    """An image, float [H, W, 3] in 0..1, under light of another colour, as a file would hold it."""
    light = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4) * torch.tensor(gains)
    light = light.clamp(0, 1)
    shown = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (shown * 255).round() / 255


if __name__ == "__main__":
    main()
