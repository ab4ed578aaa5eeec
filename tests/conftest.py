from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
STANDIN = ROOT / "tests" / "comfy_standin"

# Where several processes share the tests (pytest -n 2), each keeps to one core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


# ---------------------------------------------------------------------------------------------- nodes without ComfyUI


def load_pack(folder: Path, name: str):
    """As ComfyUI does it: by the path of the folder, whatever its name."""
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The nodes by id, the host and the folder of models; the pack is loaded from a link of another name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(STANDIN))
    folder = tmp_path_factory.mktemp("comfy")
    (folder / "my-nodes.2").symlink_to(ROOT, target_is_directory=True)
    patch.setenv("FACEPARSE_HOME", str(folder / "home"))
    patch.setenv("HF_HOME", str(folder / "hub"))
    patch.setenv("FACEPARSE_OFFLINE", "1")
    import folder_paths

    from faceparse_core.checkpoints import finding

    patch.setattr(finding, "_folders", [])
    folder_paths.models_dir = str(folder / "models")
    folder_paths.add_model_folder_path("face_parsing", str(folder / "shared"))  # as extra_model_paths.yaml does
    module = load_pack(folder / "my-nodes.2", "my-nodes_x_2")
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    yield SimpleNamespace(module=module, nodes=nodes, host=sys.modules["my-nodes_x_2.nodes.host"], folder=folder)
    patch.undo()
    for name in [name for name in sys.modules if name.startswith("my-nodes_x_2")] + [
        path.stem for path in STANDIN.iterdir()
    ]:
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == name or loaded == name]:
            del sys.modules[loaded]


@pytest.fixture
def run(pack, monkeypatch):
    """``run(node, **inputs)``: as the host does it, missing widgets at their defaults; gives the NodeOutput."""
    import comfy.utils
    from server import PromptServer

    texts, progress = [], []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: texts.append((node_id, text)))
    monkeypatch.setattr(PromptServer, "instance", server)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id: progress.append((value, total))
    )

    def call(name: str, **inputs):
        node = pack.nodes["FaceParse" + name]
        defaults = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default")}
        clone = type("Clone", (node,), {"hidden": SimpleNamespace(unique_id="7")})
        if name == "ParseFace":
            defaults |= {"model": "lite", "precision": "fp32"}
        return clone.execute(**{**defaults, **inputs})

    call.texts, call.progress = texts, progress
    return call


@pytest.fixture(scope="module")
def image(portrait):
    """The head of the portrait as ComfyUI's IMAGE: float32 [1, 224, 224, 3]."""
    from faceparse_core import images as pictures

    return (pictures.load(portrait)[0][4:228, 112:336] / 255)[None]


@pytest.fixture(scope="module")
def parsing(image):
    from faceparse_core.parser import FaceParser

    return FaceParser("lite", "cpu", "fp32").parse(image)


@pytest.fixture(scope="module")
def grey(image):
    return image * 0 + 0.5
