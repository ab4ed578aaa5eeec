"""How pictures that are not square are best shown to the network: ``python -m benchmarks.fit DATA``.

Labelled portraits are widened (and, turned, heightened) on one plain colour to several aspect ratios, and parsed with
each ``fit``. The truth of the added ground is background.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from faceparse_core import FaceParser
from faceparse_core.training.data import read_names, read_pair
from faceparse_core.training.metrics import Confusion


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--device", default="auto")
    args = arguments.parse_args()
    pairs = [read_pair(args.data, name) for name in read_names(args.data, "val")]
    print("mean F1 without background\nratio    stretch     pad")
    for ratio in (1.0, 4 / 3, 3 / 2, 16 / 9, 2.2):
        for tall in (False, True) if ratio > 1 else (False,):
            row = [
                _score(FaceParser(args.model, args.device, fit=fit), pairs, ratio, tall) for fit in ("stretch", "pad")
            ]
            print(f"{ratio:.2f} {'tall' if tall else 'wide'}  {row[0]:.4f}  {row[1]:.4f}")


def _score(parser: FaceParser, pairs, ratio: float, tall: bool) -> float:
    confusion = Confusion()
    for image, mask in pairs:
        extra = round(image.shape[0] * (ratio - 1) / 2)
        margin = ((extra, extra), (0, 0)) if tall else ((0, 0), (extra, extra))
        image = np.pad(image, (*margin, (0, 0)), constant_values=128)
        confusion.add(torch.from_numpy(np.pad(mask, margin)), parser.parse(image, faces="image").labels[0])
    return confusion.mean_f1


if __name__ == "__main__":
    main()
