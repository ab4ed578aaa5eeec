"""Training the network for outlines of hair: ``python -m faceparse_core.training.hair DATA [DATA …] --out RUN``.

It starts from a Lite, whose masks it learns to correct: soft ones, hard ones, and, so that it looks at the picture,
none at all. What counts is a band along the true outline; the rest counts a little, so that it stays as it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device, placed
from faceparse_core.labels import region_ids
from faceparse_core.models.hair import odds, start_from
from faceparse_core.models.lite import Lite
from faceparse_core.training.data import UNTOLD, Batches, Labelled, Source
from faceparse_core.training.depthwise import quicken_depthwise
from faceparse_core.training.painting import Augmentation
from faceparse_core.training.running import Run, dtype_for, loader_of, normalise

_HAIR = region_ids("hair")[0]
# Shares of the masks that are given soft and hard; the others say nothing.
_SOFT, _HARD = 0.65, 0.25
_BAND, _ELSEWHERE = 16, 0.15
_AUGMENTATION = Augmentation(scenes=0, empty=0, covered=0, strong_tilt=0.05, any_tilt=0, zoom=(0.8, 1.8))


@dataclass
class HairConfig:
    """Everything that decides a run. The rate is halved for what comes from Lite and doubled for what is new.

    ``data``: folders, with options as ``Source.parse`` takes them."""

    data: Sequence[str]
    out: str
    init: str = "lite"
    steps: int = 700
    batch_size: int = 12
    size: int = 512
    learning_rate: float = 6e-4
    weight_decay: float = 0.02
    warm_up: float = 0.08  # share of the steps
    ema: float = 0.995
    device: str = "auto"
    precision: str = "auto"
    workers: int = 1
    seed: int = 0
    save_every: float = 180.0  # seconds


def train(config: HairConfig) -> Path:
    """Run the training, going on from ``last.pt`` in ``config.out`` if it is there; the path of the averaged weights.

    Raises ValueError if ``config.init`` is not a Lite.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    dtype = dtype_for(config.precision, device)
    parser = checkpoints.load(checkpoints.find(config.init), trainable=True)
    if not isinstance(parser, Lite):
        raise ValueError(f"--init {config.init} must be a lite checkpoint, not a {type(parser).__name__}")
    network = placed(start_from(parser), device).train()
    parser = placed(parser, device).eval().requires_grad_(False)
    if device.type == "cpu" and dtype is torch.bfloat16:
        quicken_depthwise(network)
    body = {id(parameter) for parameter in network.body.parameters()}
    new = [parameter for parameter in network.parameters() if id(parameter) not in body]
    groups = [
        {"params": some, "share": share, "weight_decay": config.weight_decay}
        for some, share in ((list(network.body.parameters()), 0.5), (new, 2.0))
    ]
    run = Run(config, network, groups, device, dtype)
    sets = [Labelled(Source.parse(text), "train") for text in config.data]
    batches = Batches(sets, [config.size] * config.steps, config.batch_size, _AUGMENTATION, config.seed)
    loader = loader_of(batches, run.first, config.workers, device)
    saved, recent = time.monotonic(), None
    progress = tqdm(loader, total=config.steps, initial=run.first, unit="step", desc="hair", mininterval=5)
    for step, (pixels, labels) in enumerate(progress, start=run.first):
        run.set_rate(step)
        pixels = normalise(pixels.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)[:, None]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            with torch.no_grad():
                given = _given_masks(parser(pixels).float(), (pixels.shape[2], pixels.shape[3]))
            change = network(pixels, given)
        loss = loss_of(given, change.float(), (labels == _HAIR).float(), labels != UNTOLD)
        run.learn(loss)
        recent = loss.item() if recent is None else 0.95 * recent + 0.05 * loss.item()
        progress.set_postfix(loss=f"{recent:.4f}", refresh=False)
        if step + 1 == config.steps or time.monotonic() - saved > config.save_every:
            run.save(step + 1)
            run.average.save(out / "hair.safetensors")
            saved = time.monotonic()
    return out / "hair.safetensors"


def loss_of(given: Tensor, change: Tensor, truth: Tensor, told: Tensor) -> Tensor:
    """Cross-entropy of the corrected masks, all [B, 1, H, W], in a band along the true outline, and a little beyond;
    where it is ``told``, bool."""
    side = 2 * _BAND + 1
    band = F.max_pool2d(truth, side, 1, _BAND) + F.max_pool2d(-truth, side, 1, _BAND)
    weight = (band + _ELSEWHERE) * told
    return F.binary_cross_entropy_with_logits(odds(given) + change, truth, weight, reduction="sum") / weight.sum()


def _given_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of hair by a parser's logits, at full size: most of them soft, some hard, some 0.5 all over."""
    probability = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).softmax(1)[:, _HAIR, None]
    draw = torch.rand(len(logits), 1, 1, 1, device=logits.device)
    hard = torch.where(draw < _SOFT + _HARD, (probability > 0.5).float(), 0.5)
    return torch.where(draw < _SOFT, probability, hard)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m faceparse_core.training.hair", description=__doc__)
    arguments.add_argument("data", nargs="+", help="folders with images/, masks/ and train.txt: FOLDER[,share=0.2]"
                           "[,told=hair][,framing=picture]")  # fmt: skip
    arguments.add_argument("--out", required=True, help="folder of the run")
    arguments.add_argument("--init", default=HairConfig.init, help="the lite checkpoint whose masks are corrected")
    arguments.add_argument("--steps", type=int, default=HairConfig.steps)
    arguments.add_argument("--batch-size", type=int, default=HairConfig.batch_size)
    arguments.add_argument("--learning-rate", type=float, default=HairConfig.learning_rate)
    arguments.add_argument("--device", default=HairConfig.device)
    arguments.add_argument("--precision", default=HairConfig.precision)
    arguments.add_argument("--seed", type=int, default=HairConfig.seed)
    print(train(HairConfig(**vars(arguments.parse_args()))))


if __name__ == "__main__":
    main()
