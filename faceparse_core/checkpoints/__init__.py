"""Which weights: the table of known ones, search, download and verification, reading files into networks, saving.

A model is asked for by name or by path (``find``: where the search goes is told in ``finding``), and becomes a network
(``load``). Only safetensors and ONNX files are ever opened: a pickle can run code.

Others use what is named here.
"""

from faceparse_core.checkpoints.finding import Row, download, find, known, register_folder
from faceparse_core.checkpoints.loading import load
from faceparse_core.checkpoints.saving import preprocessor_config, save
from faceparse_core.checkpoints.table import Checkpoint
from faceparse_core.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Row",
    "download",
    "find",
    "known",
    "load",
    "preprocessor_config",
    "register_folder",
    "save",
]
