"""Any other segmentation network, through transformers: one signature and our order of labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class HubModel(nn.Module):
    """A network of transformers behind the signature of our own ones.

    ``network`` is called with ``pixel_values`` and answers with ``logits``, as every model of transformers for semantic
    segmentation does. ``order[k]`` is its channel for our label k. ``bgr`` is for networks that want blue first.

    ``forward`` takes pixels, float [B, 3, H, W], red first, normalised with the checkpoint's mean and std, and gives
    logits, [B, 19, h, w], in the dtype of the weights; h and w are the network's own (often H/4 and W/4). Which H and W
    it takes is the network's own matter too.
    """

    def __init__(self, network: nn.Module, order: Sequence[int], *, bgr: bool = False):
        super().__init__()
        self.network = network
        self.order = list(order)
        self.bgr = bgr

    def forward(self, pixels: Tensor) -> Tensor:
        if self.bgr:
            pixels = pixels.flip(1)
        logits = self.network(pixel_values=pixels.to(next(self.network.parameters()).dtype)).logits
        return logits if self.order == list(range(logits.shape[1])) else logits[:, self.order]
