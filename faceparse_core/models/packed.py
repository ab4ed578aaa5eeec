"""Layers for inference on x86 processors: weights packed once, activations computed where the results are made.

oneDNN, which torch brings along, multiplies fastest with weights in a layout of its own. ``torch.nn.Linear`` brings
them into it anew in each call, writes the bias out first, and an activation reads and writes everything once more.
The operators used here are those that torch.compile lowers these layers to; what they compute is the same.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

from faceparse_core.devices import has_native

_OPERATORS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_convolution_pointwise",
    "_reorder_convolution_weight",
)
# The name and the two arguments that oneDNN's operators take for an activation.
_ACTIVATIONS = {None: ("none", [], ""), "gelu": ("gelu", [], "none"), "relu6": ("hardtanh", [0.0, 6.0], "")}


def can_pack(network: nn.Module) -> bool:
    """Whether the layers of ``network``, as they are now, have a packed form on this machine."""
    weight = next(network.parameters())
    return (
        weight.device.type == "cpu"
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
        and (weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_native("bf16")))
    )


class PackedLinear(nn.Module):
    """``torch.nn.Linear`` with packed weights; [..., inputs] -> [..., outputs]. It cannot be moved, cast or saved."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")


class PackedConv2d(nn.Module):
    """``torch.nn.Conv2d`` with packed weights, then ``activation``: None, "gelu" (exact) or "relu6".

    [B, C, H, W] in and out, channels-last. It cannot be moved, cast or saved.
    """

    def __init__(self, conv: nn.Conv2d, activation: str | None = None):
        super().__init__()
        self.bias = conv.bias
        self._activation = _ACTIVATIONS[activation]
        self._geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        # One that looks at single pixels is a product of matrices. Packed as such it is as quick for all sizes of
        # images; packed as a convolution, without knowing the size, some shapes take a hundred times as long.
        self._pointwise = conv.kernel_size == (1, 1) and self._geometry == ([0, 0], [1, 1], [1, 1], 1)
        weight = conv.weight.detach()
        if self._pointwise:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1).contiguous())
        else:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry)

    def forward(self, x: Tensor) -> Tensor:
        if self._pointwise:
            x = x.permute(0, 2, 3, 1)
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, *self._activation)
            return y.permute(0, 3, 1, 2)
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight, self.bias, *self._geometry, *self._activation)
