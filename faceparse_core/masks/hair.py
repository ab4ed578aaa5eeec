"""What the bundled network for outlines of hair says of a picture of a head."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from faceparse_core.devices import PRECISIONS, choose_precision, placed
from faceparse_core.errors import CheckpointError
from faceparse_core.masks.reduced import greatest
from faceparse_core.models import MEAN, STD
from faceparse_core.models.hair import SUREST, HairOutline
from faceparse_core.rendering import paced

# The longer side of what the network sees, as in its training; what is much smaller is not blown up to it.
SIZE, _ENLARGED = 512, 2.0
# So far from the mask, in pixels of what it sees, the network is asked: it is for outlines, and finds no other hair.
_REACH = 32
_WEIGHTS = Path(__file__).parents[1] / "weights" / "hair.safetensors"


def correction(head: Tensor) -> Tensor:
    """What is to be added to the logits of a mask of hair, no surer than ``SUREST`` before: [1, 1, H, W].

    ``head``: colours and mask, float32 [1, 4, H, W] in 0..1; one head, which fills most of it. Seen as it is and
    mirrored, the mean of both is given; nothing far from where the mask is at least 0.5.
    """
    scale = min(_ENLARGED, SIZE / max(head.shape[2:]))
    size = [max(1, round(side * scale / 32)) * 32 for side in head.shape[2:]]
    seen = F.interpolate(head, size=size, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    seen = torch.cat([(seen[:, :3] - mean) / std, seen[:, 3:]], 1)
    network, dtype = _network()
    both = torch.cat([seen, seen.flip(3)]).to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        found, mirrored = paced(network, both[:, :3], both[:, 3:]).float().split(1)
    change = (found + mirrored.flip(3)) / 2
    near = greatest((seen[:1, 3:] >= 0.5).float(), _REACH)
    change = change * near
    return F.interpolate(change, size=head.shape[2:], mode="bilinear", align_corners=False, antialias=True)


def corrected(mask: Tensor, change: Tensor | None = None) -> Tensor:
    """The mask, float32 in 0..1, with its logits changed; where nothing is, what was sure stays sure."""
    least = 1 / (1 + math.exp(SUREST))
    share = mask.clamp(least, 1 - least)
    if change is not None:  # the logistic function of odds, of which the change is a factor
        more = change.exp().mul_(share)
        share = more.div_(1 - share + more)
    return share.sub_(least).div_(1 - 2 * least).clamp_(0, 1)


@functools.lru_cache(maxsize=1)
def _network() -> tuple[HairOutline, torch.dtype]:
    """Ready to run on the CPU; with the type of its weights."""
    if not _WEIGHTS.is_file():
        raise CheckpointError(f"the bundled weights {_WEIGHTS} are missing: install faceparse again")
    dtype = PRECISIONS[choose_precision("auto", torch.device("cpu"))]
    network = HairOutline()
    network.load_state_dict(load_file(_WEIGHTS))
    return placed(network.fold(), dtype=dtype).pack(), dtype
