"""Images and masks that are made when somebody first looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_Tensor: Any = Tensor  # whose properties are, on the class, descriptors
# What can be said before there are any pixels.
_KNOWN_BEFORE = {
    _Tensor.shape.__get__,
    _Tensor.ndim.__get__,
    _Tensor.dtype.__get__,
    _Tensor.device.__get__,
    _Tensor.layout.__get__,
    _Tensor.is_cuda.__get__,
    _Tensor.requires_grad.__get__,
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.nelement,
    Tensor.element_size,
    Tensor.is_floating_point,
    Tensor.__len__,
}


class Later(Tensor):
    """A tensor of a known shape and dtype that is computed when its values are first asked for.

    ComfyUI makes every output of a node, and does not tell the node which are connected. This one costs nothing as
    long as nobody uses it. Whoever does gets an ordinary tensor from every operation.
    """

    _make: Callable[[], Tensor] | None
    _made: Tensor | None

    @staticmethod
    def of(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, make: Callable[[], Tensor]) -> Later:
        """What ``make()`` will give: a tensor of this shape, dtype and device."""
        # One value, repeated: it takes no memory, and nobody gets to see it.
        later = torch.zeros((), dtype=dtype, device=device).expand(shape).as_subclass(Later)
        later._make, later._made = make, None
        return later

    def __repr__(self, *, tensor_contents=None) -> str:  # type: ignore[override]  # torch's is the same
        return f"Later({'made' if self._made is not None else 'not made'}, {tuple(self.shape)})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if function not in _KNOWN_BEFORE:
                args, kwargs = tree_map(_made, args), tree_map(_made, kwargs or {})
            return function(*args, **(kwargs or {}))


def _made(value: object) -> object:
    if not isinstance(value, Later):
        return value
    if value._make is not None:
        value._made, value._make = value._make(), None
    return value._made
