"""Training the network that finds faces.

Its body is that of a Lite, which stays as it is at first: what lies on it learns to find faces in composed pictures
(see ``scenes``). A further run may train the body, too, more slowly (``body``).
"""

from __future__ import annotations

import copy
import csv
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from faceparse_core import checkpoints
from faceparse_core.devices import choose_device, placed
from faceparse_core.models.finder import MARKS, FinderNetwork
from faceparse_core.models.lite import Lite
from faceparse_core.training.depthwise import quicken_depthwise
from faceparse_core.training.photos import Photos
from faceparse_core.training.running import Run, dtype_for, loader_of, normalise, step_sizes
from faceparse_core.training.scenes import Scenery, Scenes

# So near its centre is a cell that says that there is a face.
_CLOSE = 0.6


@dataclass
class FinderConfig:
    """Everything that decides a run."""

    data: str
    out: str
    init: str = "lite"  # a lite to start from, or the finder.safetensors of another run
    steps: int = 1200
    batch_size: int = 16
    # (share of the steps, size): pictures grow while the network learns
    sizes: tuple[tuple[float, int], ...] = ((0.88, 192), (0.12, 256))
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: float = 0.03  # share of the steps
    body: float = 0.0  # how fast the body learns, of the rate: 0 leaves it as it is
    boxes: float = 2.0  # weights of the losses of boxes and marks beside that of the centres
    marks: float = 8.0
    ema: float = 0.995
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
    network = placed(started(config.init), device).train()
    if config.body and device.type == "cpu" and dtype is torch.bfloat16:
        quicken_depthwise(network)
    body = list(network.body.parameters())
    others = [p for name, p in network.named_parameters() if not name.startswith("body.")]
    frozen = None
    if not config.body:
        network.body.requires_grad_(False)
        # The body alone, as it runs fastest.
        frozen = placed(copy.deepcopy(network).fold())
        frozen = frozen.pack() if device.type == "cpu" else frozen
    groups = []
    for share, some in ((1.0, others), (config.body, body)):
        for decay, those in (
            (config.weight_decay, [p for p in some if p.ndim > 1]),
            (0.0, [p for p in some if p.ndim <= 1]),
        ):
            groups += [{"params": those, "weight_decay": decay, "share": share}] if share else []
    run = Run(config, network, groups, device, dtype)
    scenes = Scenes(Photos.read(Path(config.data)), step_sizes(config), config.batch_size, config.scenery, config.seed)
    loader = loader_of(scenes, run.first, config.workers, device)
    log_file = (out / "log.csv").open("a", newline="")
    log = csv.writer(log_file)
    saved, recent = time.monotonic(), None
    progress = tqdm(loader, total=config.steps, initial=run.first, unit="step", desc="finder", mininterval=10)
    for step, (pixels, targets) in enumerate(progress, start=run.first):
        run.set_rate(step)
        pixels = normalise(pixels.to(device, non_blocking=True).float() / 255)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        targets = targets.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            if frozen is None:
                output = network(pixels)
            else:
                network.body.eval()
                with torch.no_grad():
                    taps = frozen.seen(pixels)
                output = network.said(*taps)
        parts = losses_of(output.float(), targets)
        weights = {"boxes": config.boxes, "marks": config.marks}
        loss = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        run.learn(loss)
        values = {name: part.item() for name, part in parts.items()}
        recent = {name: value + 0.97 * ((recent or values)[name] - value) for name, value in values.items()}
        if step % 20 == 0:
            progress.set_postfix({name: f"{value:.3f}" for name, value in recent.items()}, refresh=False)
            log.writerow([step, time.strftime("%H:%M:%S"), *(f"{name}={value:.4f}" for name, value in recent.items())])
            log_file.flush()
        if step + 1 == config.steps or time.monotonic() - saved > config.save_every:
            run.save(step + 1)
            run.average.save(out / "finder.safetensors")
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


def started(init: str) -> FinderNetwork:
    """A network to train: another run's finder, or one on the body of a Lite."""
    network = FinderNetwork()
    path = Path(init)
    if path.is_file():
        weights = load_file(path)
        if "output.weight" in weights:
            network.load_state_dict(weights)
            return network
    lite = checkpoints.load(checkpoints.find(init), trainable=True)
    if not isinstance(lite, Lite):
        raise ValueError(f"--init {init} must be a lite or a finder.safetensors, not a {type(lite).__name__}")
    network.take_body(lite)
    return network
