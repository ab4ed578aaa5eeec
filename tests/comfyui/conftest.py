"""A real ComfyUI server with this pack in it, started once for all tests of this folder.

``COMFYUI_PATH`` is ComfyUI's folder, ``COMFYUI_PYTHON`` the Python that has its requirements (the one of a virtual
environment in that folder, else the one that runs the tests), ``COMFYUI_OPTIONS`` what else to start it with. The
server has a folder of its own for models, pictures and settings: nothing in ComfyUI's is read or written.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
_SECONDS_TO_START = 600


@dataclass
class Comfy:
    """The running server: its address, its folders, and what it wrote."""

    url: str
    base: Path
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str):
        return json.loads(self.get(path))


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH is not set: it names the ComfyUI folder to test in")
    source = Path(os.environ["COMFYUI_PATH"]).resolve()
    if not (source / "main.py").is_file():
        pytest.fail(f"COMFYUI_PATH={source} is not ComfyUI: there is no main.py in it")
    base = tmp_path_factory.mktemp("comfyui")
    for folder in ("custom_nodes", "input", "output", "models/checkpoints", "user"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "faceparse").symlink_to(PACK, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Comfy(f"http://127.0.0.1:{port}", base, base / "server.log")
    command = [_python(source), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"]
    command += shlex.split(os.environ.get("COMFYUI_OPTIONS", ""))
    offline = {"FACEPARSE_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "FACEPARSE_HOME": str(base / "none")}
    with server.log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=source,
            env=os.environ | offline,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_until_it_answers(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _python(source: Path) -> str:
    own = [source / folder / "bin" / "python" for folder in (".venv", "venv")]
    return os.environ.get("COMFYUI_PYTHON") or next((str(python) for python in own if python.is_file()), sys.executable)


def _wait_until_it_answers(server: Comfy, process: subprocess.Popen) -> None:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"ComfyUI ended with {process.returncode} at its start:\n{server.log[-3000:]}")
        try:
            server.get("/system_stats")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"ComfyUI did not answer within {_SECONDS_TO_START} s:\n{server.log[-3000:]}")


@dataclass
class Run:
    """What a call of run.py came to."""

    code: int
    files: list[Path]
    errors: str


@pytest.fixture
def run(comfy: Comfy, runner, tmp_path: Path, capsys: pytest.CaptureFixture):
    """``run("hair_mask", "--set", "Select Labels.labels=hat")`` on the server."""

    def call(workflow: str, *arguments: str) -> Run:
        code = runner.main([workflow, "--server", comfy.url, "--out", str(tmp_path / "out"), *arguments])
        written = capsys.readouterr()
        return Run(code, [Path(line) for line in written.out.splitlines()], written.err)

    return call
