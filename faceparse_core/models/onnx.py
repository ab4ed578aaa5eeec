"""A segmentation network in an ONNX file, run by ONNX Runtime: our own exports, the published file, others like it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from faceparse_core.errors import CheckpointError, explained

# The provider of ONNX Runtime that computes on a torch device of this type.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "xpu": "OpenVINOExecutionProvider",
}
_INPUT, _OUTPUT = "pixel_values", "logits"
_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxModel(nn.Module):
    """A session of ONNX Runtime behind the signature of our own networks.

    ``path`` is the file; ``order[k]`` the channel of its logits for our label k. It starts on the CPU and moves with
    ``to(device)``, by opening the file anew for that device's provider; its precision is that of the file, whatever
    dtype it is cast to.

    ``forward`` takes pixels, float [B, 3, H, W], normalised with the checkpoint's mean and std, on any device, and
    gives logits, float32 [B, labels, h, w], on the same device. ``input_size`` is the (H, W) that the file insists on,
    None where it takes any multiple of 32. ``save_memory`` takes half as much of it and more time, by leaving the
    weights as they lie.

    Raises ImportError where onnxruntime is missing, ValueError for a file that is no segmentation network, or a device
    that onnxruntime cannot use, and CheckpointError for a file that onnxruntime cannot read or run.
    """

    def __init__(self, path: str | os.PathLike[str], order: Sequence[int], *, save_memory: bool = False):
        super().__init__()
        self.save_memory = save_memory
        self.path = os.fspath(path)
        self.order = list(order)
        self._open(torch.device("cpu"))
        self._read_signature()

    def forward(self, pixels: Tensor) -> Tensor:
        if self.input_size not in (None, tuple(pixels.shape[-2:])):
            height, width = self.input_size
            raise ValueError(f"{self.path} takes pictures of {height}x{width} alone, not {list(pixels.shape)}")
        array = pixels.detach().to("cpu", self.dtype).contiguous().numpy()
        step = self._batch or len(array)
        if len(array) % step:
            raise ValueError(f"{self.path} takes batches of {step} pictures alone, not {len(array)}")
        batches = [array[start : start + step] for start in range(0, len(array), step)]
        with explained(f"onnxruntime cannot run {self.path}", CheckpointError):
            maps = [torch.from_numpy(self.session.run([self._output], {self._input: batch})[0]) for batch in batches]
        if any(map.ndim != 4 for map in maps):
            raise CheckpointError(f"{self.path} gives {list(maps[0].shape)}, not maps [B, labels, H, W]")
        logits = (torch.cat(maps) if len(maps) > 1 else maps[0]).to(pixels.device, torch.float32)
        if logits.shape[1] != len(self.order):
            raise CheckpointError(f"{self.path} gives {logits.shape[1]} labels, not {len(self.order)}")
        return logits if self.order == list(range(len(self.order))) else logits[:, self.order]

    def _apply(self, fn, recurse=True):
        # Every .to(), .cuda() … passes here.
        device = fn(torch.empty(0)).device
        if device != self._device:
            self._open(device)
        return super()._apply(fn, recurse)

    def _open(self, device: torch.device) -> None:
        provider = _provider(device)
        options = {"device_id": device.index or 0} if device.type == "cuda" else {}
        onnxruntime = _onnxruntime()
        session_options, left_out = onnxruntime.SessionOptions(), None
        if self.save_memory:
            session_options.enable_cpu_mem_arena = False
            session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            left_out = ["ConstantFolding"]  # which would unpack all small weights at once
        with explained(f"onnxruntime cannot read {self.path}", CheckpointError):
            session = onnxruntime.InferenceSession(
                self.path, session_options, providers=[(provider, options)], disabled_optimizers=left_out
            )
        if session.get_providers()[0] != provider:  # onnxruntime itself only prints that it computes elsewhere now
            raise ValueError(f"onnxruntime cannot start {provider} here, for device '{device}': choose device='cpu'")
        self.session, self._device = session, device

    def _read_signature(self) -> None:
        """What goes in and out, as the file declares it; lengths that are left open come as names or None."""
        inputs, outputs = self.session.get_inputs(), {value.name: value for value in self.session.get_outputs()}
        batch, channels, height, width = inputs[0].shape if len(inputs[0].shape) == 4 else (0, 0, 0, 0)
        output = outputs.get(_OUTPUT) or next(iter(outputs.values()))
        if len(inputs) != 1 or _fixed(channels) not in (3, None) or inputs[0].type not in _DTYPES:
            given = ", ".join(f"{value.name} {value.shape} {value.type}" for value in inputs)
            raise ValueError(f"its input must be one batch of pictures, floats [B, 3, H, W], not {given}")
        if len(output.shape) != 4 or _fixed(output.shape[1]) not in (len(self.order), None):
            raise ValueError(f"its output must be maps of {len(self.order)} labels, not {output.name} {output.shape}")
        self._input, self._output, self.dtype = inputs[0].name, output.name, _DTYPES[inputs[0].type]
        self._batch = _fixed(batch)
        sides = _fixed(height), _fixed(width)
        self.input_size = None if None in sides else sides


def _fixed(length: int | str | None) -> int | None:
    """A length that the file insists on, None for one that it leaves open."""
    return length if isinstance(length, int) else None


def _provider(device: torch.device) -> str:
    provider = PROVIDERS.get(device.type)
    there = _onnxruntime().get_available_providers()
    if provider is None or provider not in there:
        known = [kind for kind, name in PROVIDERS.items() if name in there]
        hint = "; install onnxruntime-gpu in place of onnxruntime" if device.type == "cuda" else ""
        raise ValueError(
            f"onnxruntime, which runs ONNX files, cannot use device '{device}' here, but {', '.join(known)}{hint}"
        )
    return provider


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files need onnxruntime, which cannot be imported ({error}): pip install onnxruntime, "
            'or "faceparse[onnx]"'
        ) from error
    return onnxruntime


def choose_device(device: str | torch.device) -> str | torch.device:
    """What is meant by a device for an ONNX file: for ``"auto"`` cuda where torch and onnxruntime both have it, else
    the CPU (CoreML and OpenVINO only when they are asked for as mps and xpu); anything else as it is."""
    if device != "auto":
        return device
    return (
        "cuda" if torch.cuda.is_available() and PROVIDERS["cuda"] in _onnxruntime().get_available_providers() else "cpu"
    )
