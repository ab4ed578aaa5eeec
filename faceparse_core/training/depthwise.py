"""Depthwise convolutions whose gradients are quick in bfloat16 on a CPU.

torch 2.13 with oneDNN has no fast bfloat16 kernel for three gradients of a depthwise convolution: the input's at stride
2 and the weight's at 5x5 take ten times as long as in float32 and together most of a training step of Lite. Both can be
had from kernels that are fast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quicken_depthwise(network: nn.Module) -> None:
    """Give every square, odd-sized depthwise convolution of ``network`` the quick gradients, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels == module.out_channels:
            size = module.kernel_size[0]
            if module.kernel_size == (size, size) and size % 2 and module.padding == (size // 2, size // 2):
                module.__class__ = _DepthwiseConv2d


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        return _Depthwise.apply(x.to(dtype), self.weight.to(dtype), self.stride[0])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, size = ctx.stride, weight.shape[-1]
        # The input's gradient is the gradient, spread out to the input's grid, filtered with the mirrored kernel.
        spread = grad
        if stride > 1:
            spread = torch.zeros_like(x)
            spread[:, :, ::stride, ::stride] = grad
        grad_x = F.conv2d(spread, weight.flip(-1, -2), None, 1, size // 2, groups=len(weight))
        dtype = torch.float32 if size > 3 else grad.dtype
        grad_weight = torch.nn.grad.conv2d_weight(
            x.to(dtype), weight.shape, grad.to(dtype), stride, size // 2, groups=len(weight)
        )
        return grad_x, grad_weight.to(weight.dtype), None
