"""Biases of a parser's classifier for the highest mean F1: ``python -m faceparse_core.training.calibrate DATA --init
CHECKPOINT --out CHECKPOINT``.

A loss that weighs rare labels up finds them, and paints them too fat. How much too fat is measured on training pictures
as they are, and the bias of each label moved until the mean F1 of all labels (pixels pooled, without the background)
grows no more: coordinate ascent, as thresholds are chosen for multi-label F1 (Fan & Lin 2007).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device, placed
from faceparse_core.labels import LABELS, NUM_LABELS
from faceparse_core.models.lite import Lite
from faceparse_core.training.data import Labelled, Source, read_pair
from faceparse_core.training.metrics import Confusion
from faceparse_core.training.running import dtype_for, seen

_STEPS = (0.8, 0.4, 0.2, 0.1)
_FARTHEST = 2.0
"""No bias is moved farther: what a network hardly ever says, a bias does not make it know."""


def fit(pictures: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """What to add to each label's logit, float32 [19], the background's 0.

    ``pictures``: logits, float [19, H, W], and the true labels of the same pixels, uint8 [H, W], picture by picture;
    values from 19 on are not told.
    """
    sure, open_logits, open_labels = Confusion(), [], []
    for logits, labels in pictures:
        told = labels < NUM_LABELS
        scores, truth = logits[:, told].float(), labels[told]
        # Pixels that no allowed bias can turn are counted once.
        first, second = scores.topk(2, dim=0).values
        settled = first - second > 2 * _FARTHEST
        sure.add(truth[settled], scores[:, settled].argmax(0))
        open_logits.append(scores[:, ~settled].half())
        open_labels.append(truth[~settled])
    scores, truth = torch.cat(open_logits, 1), torch.cat(open_labels)

    def score(bias: Tensor) -> float:
        confusion = Confusion()
        confusion.counts += sure.counts
        confusion.add(truth, (scores + bias[:, None].half()).argmax(0))
        return confusion.mean_f1

    bias = torch.zeros(NUM_LABELS)
    best = score(bias)
    for step in _STEPS:
        for label in range(1, NUM_LABELS):
            for move in (step, -step):
                moved = bias.clone()
                moved[label] += move
                if moved.abs().max() <= _FARTHEST and (new := score(moved)) > best:
                    bias, best = moved, new
                    break
    return bias


@torch.no_grad()
def calibrate(data: str, init: str, out: str, pictures: int = 600, device: str = "auto", seed: int = 0) -> Path:
    """Moves the biases of the Lite ``init`` by ``fit`` on so many training pictures of the folder ``data``, each seen
    at 512x512, and saves it as ``out``. Returns its path. Raises ``ValueError`` for a network that is no Lite."""
    network = checkpoints.load(checkpoints.find(init), trainable=True)
    if not isinstance(network, Lite):
        raise ValueError(f"--init {init} is no lite checkpoint: of others the biases cannot be moved")
    source = Labelled(Source.parse(data), "train")
    names = random.Random(seed).sample(source.names, min(pictures, len(source)))
    where = choose_device(device)
    dtype = dtype_for("auto", where)
    placed(network, where).eval()

    def looks() -> Iterator[tuple[Tensor, Tensor]]:
        for name in tqdm(names, unit="image"):
            image, mask = read_pair(source.folder, name)
            logits = seen(network, image, where, dtype, 512).cpu()
            small = Image.fromarray(mask).resize((logits.shape[2], logits.shape[1]), Image.Resampling.NEAREST)
            yield logits, torch.from_numpy(np.array(small))

    bias = fit(looks())
    print(", ".join(f"{label.name} {value:+.1f}" for label, value in zip(LABELS, bias.tolist(), strict=True) if value))
    cast(nn.Conv2d, network.cpu().classifier).bias += bias  # type: ignore[operator]  # it has one
    return checkpoints.save(network, out)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m faceparse_core.training.calibrate", description=__doc__)
    arguments.add_argument("data", metavar="FOLDER", help="folder with images/, masks/ and train.txt")
    arguments.add_argument("--init", required=True, metavar="CHECKPOINT")
    arguments.add_argument("--out", required=True, metavar="FILE")
    arguments.add_argument("--pictures", type=int, default=600)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--seed", type=int, default=0)
    print(calibrate(**vars(arguments.parse_args())))


if __name__ == "__main__":
    main()
