"""Face parsing: skin, hair, eyes, lips and fifteen more labels as masks. Stands without ComfyUI.

>>> from faceparse_core import FaceParser
>>> parsing = FaceParser().parse("portrait.jpg")
>>> parsing.mask("hair - hat", soft=True)  # float32 [B, H, W] in [0, 1]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from faceparse_core.errors import CheckpointError
    from faceparse_core.faces import Face
    from faceparse_core.labels import GROUPS, LABELS, region_ids
    from faceparse_core.parser import FaceParser
    from faceparse_core.parsing import Parsing

# Loaded when first asked for: torch takes seconds, and `faceparse --help` needs none of it.
_HOMES = {
    "FaceParser": "parser",
    "Parsing": "parsing",
    "Face": "faces",
    "CheckpointError": "errors",
    "LABELS": "labels",
    "GROUPS": "labels",
    "region_ids": "labels",
}

__all__ = ["GROUPS", "LABELS", "CheckpointError", "Face", "FaceParser", "Parsing", "__version__", "region_ids"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
