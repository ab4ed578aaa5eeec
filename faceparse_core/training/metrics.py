"""Confusion counts over all pixels of a set, and the figures that are read from them."""

from __future__ import annotations

import torch
from torch import Tensor

from faceparse_core.labels import NUM_LABELS


class Confusion:
    """``counts[t, p]``: how many pixels of the true label ``t`` were parsed as ``p``, int64 [19, 19].

    Figures are over the pooled pixels. Labels that are neither in the truth nor parsed have no score (NaN) and are left
    out of the means.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(NUM_LABELS, NUM_LABELS, dtype=torch.int64)

    def add(self, truth: Tensor, parsed: Tensor) -> None:
        """Count two label maps of one shape, any integer dtype: ids 0..18; what is told of nothing (255) counts not."""
        if truth.shape != parsed.shape:
            raise ValueError(f"label maps must have one shape, not {tuple(truth.shape)} and {tuple(parsed.shape)}")
        told = truth < NUM_LABELS
        pairs = truth[told].long() * NUM_LABELS + parsed[told].long()
        self.counts += torch.bincount(pairs, minlength=NUM_LABELS**2).view(NUM_LABELS, NUM_LABELS)

    @property
    def iou(self) -> Tensor:
        """Intersection over union by label, float64 [19]."""
        hit, truth, parsed = self._sums()
        return hit / (truth + parsed - hit)

    @property
    def f1(self) -> Tensor:
        """F1 (Dice) by label, float64 [19]."""
        hit, truth, parsed = self._sums()
        return 2 * hit / (truth + parsed)

    @property
    def precision(self) -> Tensor:
        hit, _, parsed = self._sums()
        return hit / parsed

    @property
    def recall(self) -> Tensor:
        hit, truth, _ = self._sums()
        return hit / truth

    @property
    def share(self) -> Tensor:
        """Share of the true pixels by label, float64 [19]."""
        return self.counts.sum(1).double() / self.counts.sum()

    @property
    def mean_iou(self) -> float:
        """Over all labels, the background too."""
        return self.iou.nanmean().item()

    @property
    def mean_f1(self) -> float:
        """Over all labels but the background."""
        return self.f1[1:].nanmean().item()

    @property
    def accuracy(self) -> float:
        return (self.counts.diagonal().sum() / self.counts.sum()).item()

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts.double()
        return counts.diagonal(), counts.sum(1), counts.sum(0)
