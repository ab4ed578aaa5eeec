"""Training the network that finds faces.

It starts from a Lite, half of whose channels it takes over in the middle: first its own thin layers learn to give what
Lite's first ones give, then everything learns to find faces in composed pictures (see ``scenes``).
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device
from faceparse_core.models.finder import MARKS, FinderNetwork
from faceparse_core.models.lite import InvertedResidual, Lite
from faceparse_core.training.photos import Photos
from faceparse_core.training.scenes import Scenery, Scenes
from faceparse_core.training.train import (
    Average,
    dtype_for,
    go_on,
    learn,
    learning_rate,
    loader_of,
    normalise,
    save_state,
    step_sizes,
)

# So near its centre is a cell that says that there is a face.
_CLOSE = 0.6


@dataclass
class FinderConfig:
    """Everything that decides a run."""

    data: str
    out: str
    init: str = "lite"  # a lite to start from, or the finder.safetensors of another run
    steps: int = 4000
    batch_size: int = 16
    # (share of the steps, size): pictures grow while the network learns
    sizes: tuple[tuple[float, int], ...] = ((0.9, 192), (0.1, 256))
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: float = 0.03  # share of the steps
    imitation: int = 200  # steps in which the first layers learn to be Lite's; none for another run's finder
    boxes: float = 2.0  # weights of the losses of boxes and marks beside that of the centres
    marks: float = 8.0
    ema: float = 0.998
    scenery: Scenery = field(default_factory=Scenery)
    device: str = "auto"
    precision: str = "auto"
    workers: int = 1
    seed: int = 0
    save_every: float = 180.0  # seconds


def train(config: FinderConfig) -> Path:
    """Run the training, going on from ``last.pt`` in ``config.out`` if it is there; the path of the averaged weights.

    Raises ``ValueError`` if ``config.init`` is neither a Lite nor a finder.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=1))
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    dtype = dtype_for(config.precision, device)
    network, teacher = started(config.init)
    network = network.to(device, memory_format=torch.channels_last).train()
    imitation = config.imitation if teacher is not None else 0
    if imitation:
        teacher = teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    average = Average(network, config.ema)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    state = {"network": network, "average": average, "optimiser": optimiser, "scaler": scaler}
    first = go_on(out, state)

    def save(step: int) -> None:
        save_state(out, step, state)
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in average.values.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, out / "finder.safetensors")

    scenes = Scenes(Photos.read(Path(config.data)), step_sizes(config), config.batch_size, config.scenery, config.seed)
    loader = loader_of(scenes, first, config.workers, device)
    log_file = (out / "log.csv").open("a", newline="")
    log = csv.writer(log_file)
    saved, recent = time.monotonic(), None
    progress = tqdm(loader, total=config.steps, initial=first, unit="step", desc="finder", mininterval=10)
    for step, (pixels, targets) in enumerate(progress, start=first):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        pixels = normalise(pixels.to(device, non_blocking=True).float() / 255).contiguous(
            memory_format=torch.channels_last
        )
        targets = targets.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            if step < imitation:
                parts = {"imitation": _imitation(network, teacher, pixels)}
            else:
                parts = losses_of(network(pixels).float(), targets)
        loss = (
            sum(getattr(config, name, 1.0) * part for name, part in parts.items())
            if step >= imitation
            else parts["imitation"]
        )
        learn(loss, network, optimiser, scaler)
        average.update(network)
        values = {name: part.item() for name, part in parts.items()}
        recent = values if recent is None or recent.keys() != values.keys() else {
            name: 0.97 * recent[name] + 0.03 * value for name, value in values.items()}  # fmt: skip
        if step % 20 == 0:
            progress.set_postfix({name: f"{value:.3f}" for name, value in recent.items()}, refresh=False)
            log_file.flush()
            log.writerow([step, time.strftime("%H:%M:%S"), *(f"{name}={value:.4f}" for name, value in recent.items())])
        if step + 1 == config.steps or time.monotonic() - saved > config.save_every:
            save(step + 1)
            saved = time.monotonic()
    return out / "finder.safetensors"


def losses_of(output: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The losses of centres, boxes and marks: ``output`` [B, 15, h, w] against ``targets_of`` pictures [B, 17, h, w].

    That of the centres is CenterNet's focal loss, but all cells close to a centre are hits and share its weight; the
    others are mean distances over the faces, in sizes of a face.
    """
    near, counts, weight, truth = targets[:, 0], targets[:, 1], targets[:, 2], targets[:, 3:]
    logit = output[:, 0]
    probability = logit.sigmoid()
    close = weight * (near > _CLOSE)
    hits = -F.logsigmoid(logit) * (1 - probability) ** 2 * close
    misses = -F.logsigmoid(-logit) * probability**2 * (1 - near) ** 4 * counts * (close == 0)
    faces = weight.sum().clamp_min(1)
    batch, row, column = weight.nonzero(as_tuple=True)
    weight, truth, said = weight[batch, row, column], truth[batch, :, row, column], output[batch, 1:, row, column]
    off = F.smooth_l1_loss(said, truth.nan_to_num(), reduction="none", beta=0.05)
    known = (~truth.isnan()).float()
    marks = off[:, 4:] * known[:, 4:]
    told = (weight[:, None] * known[:, 4:]).sum() / (2 * MARKS)
    return {
        "centres": 2 * hits.sum() / close.sum().clamp_min(1e-3) + misses.sum() / faces,
        "boxes": (weight * off[:, :4].sum(1)).sum() / faces,
        "marks": (weight * marks.sum(1)).sum() / told.clamp_min(1) / MARKS,
    }


def started(init: str) -> tuple[FinderNetwork, Lite | None]:
    """A network to train: another run's finder, or one that takes over a Lite's middle, with that Lite as a teacher."""
    path = Path(init)
    if path.is_file():
        weights = load_file(path)
        if "output.weight" in weights:
            network = FinderNetwork()
            network.load_state_dict(weights)
            return network, None
    lite = checkpoints.load(checkpoints.find(init), trainable=True)
    if not isinstance(lite, Lite):
        raise ValueError(f"--init {init} must be a lite or a finder.safetensors, not a {type(lite).__name__}")
    network = FinderNetwork()
    for ours, theirs in zip(network.stages, lite.stages[2:4], strict=False):
        for block, other in zip(ours, theirs, strict=True):
            _take_over(block, other)
    return network, lite


def _take_over(block: InvertedResidual, other: InvertedResidual) -> None:
    """The weights of a wider block: of its hidden channels those that move its output most."""
    norm = other.depthwise.norm
    strength = other.project.conv.weight.flatten(1).norm(dim=0) * (norm.weight.abs() + norm.bias.clamp_min(0))
    best = strength.topk(block.project.conv.in_channels).indices.sort().values
    state = other.state_dict()
    for key, value in state.items():
        if key.startswith(("expand.", "depthwise.")) and value.ndim:
            state[key] = value[best]
    state["project.conv.weight"] = state["project.conv.weight"][:, best]
    block.load_state_dict(state)


def _imitation(network: FinderNetwork, lite: Lite, pixels: Tensor) -> Tensor:
    """How far the first layers are from giving what Lite's give at a quarter of the size, in deviations."""
    with torch.no_grad():
        theirs = nn.Sequential(lite.stem, *lite.stages[:2])(pixels).float()
        spread = theirs.var((0, 2, 3), keepdim=True) + 1e-3
    ours = network.early(network.stem(pixels)).float()
    return ((ours - theirs) ** 2 / spread).mean()
