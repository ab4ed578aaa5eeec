"""The door for ComfyUI: this folder is a pack of nodes. Nothing heavy is imported here, and ComfyUI need not be there.

The engine, ``faceparse_core``, lies in this folder and is used from here, installed or not: see ``_use_own_engine``.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

WEB_DIRECTORY = "./web/comfyui"  # not ./web: ComfyUI runs every script in it inside its editor

_HERE = Path(__file__).resolve().parent
_NEEDED = ("torch", "numpy", "PIL", "safetensors", "scipy", "tqdm", "filelock", "transformers")
_log = logging.getLogger("faceparse")


async def comfy_entrypoint():
    """What ComfyUI calls to get the nodes. They are there even where a dependency is not."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _log.error(
            "Face parsing: these Python packages are missing: %s. The nodes are listed but cannot run before "
            "`pip install -r %s`",
            ", ".join(missing),
            _HERE / "requirements.txt",
        )
    _use_own_engine()
    from .nodes import FaceParseExtension

    return FaceParseExtension()


def _use_own_engine() -> None:
    """Makes ``import faceparse_core`` give the engine in this folder.

    The folder is not put on the search path: its other packages (nodes, tests …) would be found there by everybody. An
    engine that is installed with pip may be of another version, so ours is taken before it; only one that is loaded
    already stays, because there cannot be two of one name.
    """
    own = _HERE / "faceparse_core" / "__init__.py"
    loaded = sys.modules.get("faceparse_core")
    if loaded is None:
        spec = importlib.util.spec_from_file_location("faceparse_core", own)
        engine = importlib.util.module_from_spec(spec)
        sys.modules["faceparse_core"] = engine
        spec.loader.exec_module(engine)
    elif Path(loaded.__file__).resolve() != own:
        _log.warning(
            "Face parsing: the nodes run with faceparse_core %s from %s, which was loaded before the one in %s. "
            "If it is of another version, uninstall it or remove the other copy of these nodes.",
            loaded.__version__,
            Path(loaded.__file__).parent,
            _HERE,
        )
