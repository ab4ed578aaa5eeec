"""The loss that a parser learns by, also where a mask tells only a part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceparse_core.labels import NUM_LABELS, region_ids
from faceparse_core.training.data import NOT_HAIR

_HAIR = region_ids("hair")[0]


class Criterion(nn.Module):
    """Class-balanced cross-entropy and soft Dice on the logits upsampled to the labels' size.

    A label weighs the more the rarer it is, so that eyes count beside hair: (0.1 / its share of the pixels) to the
    power of ``balance``, from 0.5 to 5. The more balance, the more is found of small parts, and the fatter they come.

    Pixels of ``UNTOLD`` count for nothing. Of those of ``NOT_HAIR`` the probability of hair counts against the sum of
    all others: -log(1 - p(hair)), and its part in hair's Dice.
    """

    def __init__(self, frequencies: Tensor, balance: float, dice: float):
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", (0.1 / frequencies.clamp_min(1e-6)).pow(balance).clamp(0.5, 5.0))
        self.dice = dice

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``logits`` float32 [B, 19, h, w], ``labels`` int64 [B, H, W]: ids, ``UNTOLD``, ``NOT_HAIR``; a scalar."""
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        log_probability = logits.log_softmax(1)
        told = labels < NUM_LABELS
        ids = torch.where(told, labels, 0)
        weight = torch.where(told, self.weights[ids], 0.0)
        loss = -(log_probability.gather(1, ids[:, None])[:, 0] * weight).sum()
        not_hair = labels == NOT_HAIR
        if not_hair.any():
            hair = log_probability[:, _HAIR][not_hair]
            # log(1 - p) of a log(p) that may be near 0
            others = torch.log(-torch.expm1(hair.clamp(max=-1e-6)))
            loss = loss - self.weights[_HAIR] * others.sum()
            weight = weight.sum() + self.weights[_HAIR] * not_hair.sum()
        loss = loss / weight.sum().clamp_min(1.0)
        if self.dice:
            loss = loss + self.dice * self._dice(log_probability, ids, told, not_hair)
        return loss

    def _dice(self, log_probability: Tensor, ids: Tensor, told: Tensor, not_hair: Tensor) -> Tensor:
        """One minus the mean soft Dice of the labels that are there."""
        # Sums by label without a one-hot map: what the true label got at each pixel, added up by that label.
        probability = log_probability.exp() * told[:, None]
        hit = probability.gather(1, ids[:, None])[:, 0][told]
        overlap = torch.zeros_like(self.weights).index_add(0, ids[told], hit)
        truth = torch.bincount(ids[told], minlength=NUM_LABELS)
        total = probability.sum((0, 2, 3)) + truth
        false_hair = log_probability[:, _HAIR][not_hair].exp().sum()
        total = total + F.one_hot(torch.tensor(_HAIR, device=total.device), NUM_LABELS) * false_hair
        present = truth > 0
        if not present.any():
            return log_probability.sum() * 0
        return (1 - 2 * overlap[present] / total[present]).mean()
