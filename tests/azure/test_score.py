"""deploy/azure/score.py in Azure's own inference server. Skipped where azureml-inference-server-http is missing."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AZURE = ROOT / "deploy" / "azure"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    if importlib.util.find_spec("azureml_inference_server_http") is None:
        pytest.skip("azureml-inference-server-http is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("azure") / "log.txt"
    command = [sys.executable, "-m", "azureml_inference_server_http.amlserver", "--entry_script",
               str(AZURE / "score.py"), "--port", str(port)]  # fmt: skip
    with open(log, "wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "FACEPARSE_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if server.poll() is not None:
                pytest.fail(f"the server has ended:\n{log.read_text()[-3000:]}")
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield f"{url}/score"
    finally:
        server.terminate()
        server.wait(30)


def ask(url: str, body: bytes | None) -> tuple[int, dict]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_example_is_answered(url):
    status, answer = ask(url, (AZURE / "request.json").read_bytes())
    assert status == 200
    (told,) = answer["images"]
    assert len(told["faces"]) == 1 and {"hair", "skin", "nose"} <= {label["name"] for label in told["labels"]}
    assert set(told["masks"]) == {"hair", "face - eyes - lips"}


@pytest.mark.parametrize(
    ("status", "said", "body"),
    [
        (400, "no JSON", b"{"),
        (400, "addresses are not opened", b'{"image": "https://example.org/a.jpg"}'),
        (400, "no picture", b'{"image": "AAAA"}'),
        (405, "POST", None),
    ],
)
def test_a_bad_one_is_told(url, status, said, body):
    got, answer = ask(url, body)
    assert got == status and said in answer["error"]
    assert ask(url, (AZURE / "request.json").read_bytes())[0] == 200


def test_one_that_is_too_large_is_told_before_it_is_read(url):
    line = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    line.putrequest("POST", "/score")
    line.putheader("Content-Length", str(33 << 20))
    line.endheaders()
    answer = line.getresponse()
    assert answer.status == 413 and "at most" in json.loads(answer.read())["error"]
    line.close()
