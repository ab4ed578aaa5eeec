"""A picture of what training does to pictures: ``python -m faceparse_core.training.sheet PORTRAIT --out SHEET.jpg``.

Each cell has one of the things that ``covers`` and ``wear`` do to a portrait, with the name of its switch.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceparse_core.labels import LABELS
from faceparse_core.parser import FaceParser
from faceparse_core.training import covers
from faceparse_core.training.wear import Wear, worn

_CELL, _COLUMNS = 200, 5
_COLOURS = np.array([label.colour for label in LABELS], np.uint8)


def sheet(portrait: Image.Image, seed: int = 0) -> Image.Image:
    """The cells, each under its name, of a portrait (RGB) that one face fills."""
    portrait = portrait.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    mask = Image.fromarray(FaceParser("lite", "cpu").parse(portrait, faces="image").labels[0].numpy())
    cells = []
    texture = np.asarray(portrait.rotate(90))
    for name, cover in (
        ("covered: surgical mask", lambda rng: covers.surgical_mask(portrait, mask, rng, lambda: texture)),
        ("covered: hand", lambda rng: covers.hand(portrait, mask, rng)),
        ("covered: thing", lambda rng: covers.thing(portrait, mask, rng, lambda: texture)),
    ):
        picture, labels = cover(np.random.default_rng(seed + 1))
        seen = 0.6 * np.asarray(picture) + 0.4 * _COLOURS[np.asarray(labels)]
        cells.append((name, Image.fromarray(seen.astype(np.uint8))))
    pixels = np.asarray(portrait, np.float32) / 255
    for name in (field.name for field in fields(Wear)):
        much = {"tint": 0.15}.get(name, 1.0 if name not in ("brightness", "contrast", "saturation") else 0.5)
        after = worn(pixels, Wear.none(**{name: much}), np.random.default_rng(seed + 2))
        cells.append((name, Image.fromarray((after * 255).round().astype(np.uint8))))
    rows = -(-len(cells) // _COLUMNS)
    page = Image.new("RGB", (_COLUMNS * (_CELL + 8) + 8, rows * (_CELL + 28) + 8), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for number, (name, cell) in enumerate(cells):
        x, y = 8 + number % _COLUMNS * (_CELL + 8), 4 + number // _COLUMNS * (_CELL + 28)
        draw.text((x, y), name, "black", font)
        page.paste(cell, (x, y + 20))
    return page


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m faceparse_core.training.sheet", description=__doc__)
    arguments.add_argument("portrait", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    sheet(Image.open(args.portrait), args.seed).save(args.out, quality=88)


if __name__ == "__main__":
    main()
