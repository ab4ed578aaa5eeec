"""Rendering: from the small logits of a window to labels and probabilities at the size of the image, and their colours
laid over it.

Others use what is named here; which of ``bilinear`` (PyTorch) and ``triton_kernel`` (CUDA) computes is decided in here.
"""

from faceparse_core.rendering.bilinear import Window, bands, labels, row_bands, samples, soft_masks
from faceparse_core.rendering.painting import lay_over
from faceparse_core.rendering.threads import alone, led, paced, single_threads, size_of_part, spread, threads_at_hand

__all__ = [
    "Window",
    "alone",
    "bands",
    "labels",
    "lay_over",
    "led",
    "paced",
    "row_bands",
    "samples",
    "single_threads",
    "size_of_part",
    "soft_masks",
    "spread",
    "threads_at_hand",
]
