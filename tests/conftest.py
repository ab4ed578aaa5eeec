from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine may be slow, and the first call of many things loads a library: no example fails for its time.
settings.register_profile("faceparse", deadline=None)
settings.load_profile("faceparse")


@pytest.fixture(scope="session")
def portrait() -> Path:
    """NASA's portrait of Eileen Collins, 512x512 RGB: a frontal face of about 110 pixels, no glasses, teeth showing."""
    return Path(__file__).parents[1] / "samples" / "portrait.jpg"


@pytest.fixture(scope="session")
def runner():
    """workflows/run.py as a module."""
    path = Path(__file__).parents[1] / "workflows" / "run.py"
    spec = importlib.util.spec_from_file_location("faceparse_run_workflow", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
