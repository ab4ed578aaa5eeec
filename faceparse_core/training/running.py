"""What every training does alike: a network with its optimiser and averaged weights, goes on where its folder says."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from faceparse_core import checkpoints
from faceparse_core.devices import PRECISIONS, choose_precision
from faceparse_core.training.data import Batches
from faceparse_core.training.scenes import Scenes


class Schedule(Protocol):
    """What decides the learning rate in a config."""

    steps: int
    warm_up: float
    learning_rate: float


class Sized(Protocol):
    """What decides the sizes of the pictures in a config."""

    sizes: tuple[tuple[float, int], ...]
    steps: int


class Settings(Schedule, Protocol):
    """What a ``Run`` takes from a config."""

    out: str
    ema: float


class Run:
    """A network that learns in the folder ``config.out``, on its device in ``dtype`` (None: float32).

    ``groups``: its parameters as torch's optimisers take them; a group's ``share`` is how fast it learns, of the rate.
    ``first``: the step to go on from. Attributes: ``network``, ``average``, ``first``.
    """

    def __init__(
        self,
        config: Settings,
        network: nn.Module,
        groups: list[dict[str, Any]],
        device: torch.device,
        dtype: torch.dtype | None,
    ):
        self.config, self.network, self.out = config, network, Path(config.out)
        self.average = Average(network, config.ema)
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self._state = {
            "network": network, "average": self.average, "optimiser": self.optimiser, "scaler": self.scaler
        }  # fmt: skip
        self.first = go_on(self.out, self._state)

    def set_rate(self, step: int) -> float:
        """Brings the learning rate to that of a step, and returns it."""
        rate = learning_rate(self.config, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        return rate

    def learn(self, loss: Tensor) -> None:
        """One step down the loss, with the gradient's length limited, and on with the average."""
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(self.network)

    def save(self, step: int) -> None:
        """Writes everything that is needed to go on."""
        save_state(self.out, step, self._state)


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


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in 0..1, [B, 3, H, W], with the ImageNet mean taken off and divided by its deviation."""
    mean = torch.tensor(checkpoints.Checkpoint.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(checkpoints.Checkpoint.std, device=pixels.device)[:, None, None]
    return (pixels - mean) / std


@torch.no_grad()
def seen(network: nn.Module, image: np.ndarray, device: torch.device, dtype: torch.dtype | None, size: int) -> Tensor:
    """Logits [19, h, w] of an image, uint8 [H, W, 3], brought to a square of this size; ``dtype`` as ``dtype_for``
    gives it."""
    square = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    pixels = normalise(torch.from_numpy(square).to(device).permute(2, 0, 1)[None].float() / 255)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        return network(pixels.contiguous(memory_format=torch.channels_last))[0]


def step_sizes(config: Sized) -> list[int]:
    """The size of the pictures at every step."""
    sizes: list[int] = []
    until = 0.0
    for share, size in config.sizes:
        until += share
        sizes += [size] * (round(until * config.steps) - len(sizes))
    if len(sizes) != config.steps:
        raise ValueError(f"the shares in sizes={config.sizes} must add up to 1")
    return sizes


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

    def save(self, path: Path) -> None:
        """Writes the averages as a file of float16."""
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in self.values.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for key, value in state["values"].items():
            self.values[key].copy_(value)


def dtype_for(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in beside float32, or None. Gradients want bfloat16's range where a GPU has it."""
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        precision = "bf16"
    dtype = PRECISIONS[choose_precision(precision, device)]
    return None if dtype is torch.float32 else dtype
