"""Measuring any checkpoint on labelled portraits."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from faceparse_core.labels import LABELS
from faceparse_core.parser import FaceParser
from faceparse_core.training.data import Source, read_names, read_pair
from faceparse_core.training.metrics import Confusion

_AT_A_TIME = 8


def evaluate(parser: FaceParser, data: str | Path, split: str = "val") -> Confusion:
    """The confusion of ``parser`` over all pixels of the pictures that ``DATA/SPLIT.txt`` names, at their own size.

    ``data`` may have options, as ``train`` takes them: of ``told=hair`` hair and what is not hair are compared.
    """
    source = Source.parse(str(data))
    data = Path(source.folder)
    names = read_names(data, split)
    confusion = Confusion()
    with tqdm(total=len(names), unit="image", disable=None, leave=False) as progress:
        for start in range(0, len(names), _AT_A_TIME):
            pairs = [read_pair(data, name) for name in names[start : start + _AT_A_TIME]]
            parsing = parser.parse([image for image, _ in pairs], faces="image")
            for one, (_, mask) in zip(parsing, pairs, strict=True):
                confusion.add(torch.from_numpy(mask), source.comparable(one.labels[0]))
            progress.update(len(pairs))
    return confusion


def figures(confusion: Confusion) -> dict:
    """All figures, ready for JSON; what has no value (a label that does not occur) is null."""

    def value(x) -> float | None:
        return None if math.isnan(x) else round(float(x), 5)

    return {
        "mean_f1": value(confusion.mean_f1),
        "mean_iou": value(confusion.mean_iou),
        "accuracy": value(confusion.accuracy),
        "labels": [
            {"id": label.id, "name": label.name, "share": value(share), "f1": value(f1), "iou": value(iou)}
            | {"precision": value(precision), "recall": value(recall)}
            for label, share, f1, iou, precision, recall in _rows(confusion)
        ],
    }


def table(confusion: Confusion) -> str:
    """The figures as text: a row a label, then the means."""
    lines = ["id  label         share      F1     IoU  precision  recall"]
    for label, share, *scores in _rows(confusion):
        f1, iou, precision, recall = ("-" if math.isnan(s) else f"{s:.3f}" for s in scores)
        lines.append(f"{label.id:2d}  {label.title:<12} {share:6.2%}  {f1:>6}  {iou:>6}  {precision:>9}  {recall:>6}")
    lines.append(
        f"mean F1 without background {confusion.mean_f1:.4f}, mean IoU {confusion.mean_iou:.4f}, "
        f"pixel accuracy {confusion.accuracy:.4f}"
    )
    return "\n".join(lines)


def _rows(confusion: Confusion):
    scores = (confusion.share, confusion.f1, confusion.iou, confusion.precision, confusion.recall)
    return zip(LABELS, *(score.tolist() for score in scores), strict=True)


def confusion_picture(confusion: Confusion, cell: int = 34) -> Image.Image:
    """A picture of the confusion: a row a true label, a column a parsed one, per cent of the row's pixels."""
    shares = confusion.counts.double() / confusion.counts.sum(1, keepdim=True)
    font = ImageFont.load_default(12)
    left, top = 96, 96
    picture = Image.new("RGB", (left + cell * len(LABELS) + 8, top + cell * len(LABELS) + 8), "white")
    draw = ImageDraw.Draw(picture)
    for label in LABELS:
        at = label.id * cell
        draw.text((left - 6, top + at + cell / 2), label.title, "black", font, anchor="rm")
        name = Image.new("L", (left, cell))
        ImageDraw.Draw(name).text((0, cell / 2), label.title, 255, font, anchor="lm")
        picture.paste("black", (left + at, 0), name.rotate(90, expand=True))
    for row, shares_of_row in enumerate(shares.tolist()):
        for column, share in enumerate(shares_of_row):
            if math.isnan(share):
                continue
            x, y = left + column * cell, top + row * cell
            depth = round(255 * (1 - math.sqrt(share)))
            colour = (
                (depth, 255 - (255 - depth) // 3, 255) if row != column else (depth, 255 - (255 - depth) // 4, depth)
            )
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), colour)
            if share >= 0.005:
                draw.text((x + cell / 2, y + cell / 2), f"{100 * share:.0f}", "black", font, anchor="mm")
    return picture
