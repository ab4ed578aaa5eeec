"""The server of `npm run serve`: what it gives, and what it keeps. Node and the packages of web/ are needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of web/ to put links and secrets into; beside it lies a secret."""
    if not (WEB / "node_modules" / "send").is_dir() or not shutil.which("node"):
        if os.environ.get("CHROMIUM"):
            pytest.fail("The packages of web/ are not installed: npm ci there")
        pytest.skip("Node or the packages of web/ are not here: npm ci there")
    folder = tmp_path_factory.mktemp("serve") / "web"
    for name in ("demo", "faceparse", "p5js", "tools"):
        shutil.copytree(WEB / name, folder / name)
    (folder / "vendor" / "models").mkdir(parents=True)
    (folder / "vendor" / "some.wasm").write_bytes(b"\0asm")
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    (folder / "node_modules").symlink_to(WEB / "node_modules")
    (folder / "demo" / ".hidden").write_text("secret")
    (folder / "demo" / "node_modules").mkdir()
    (folder / "demo" / "node_modules" / "a.js").write_text("secret")
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def get(folder) -> Iterator[Callable[..., Answer]]:
    """Asks for a path exactly as it is written; afterwards the server must still be there."""
    command = ["node", "tools/serve.js"]
    server = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PORT": "0"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline()).group(1))

    def ask(path: str, *headers: str, method: str = "GET") -> Answer:
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        top, body = received.split(b"\r\n\r\n", 1)
        status, *lines = top.decode().split("\r\n")
        return Answer(int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body)

    try:
        yield ask
        assert server.poll() is None, server.stderr.read()
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=10)
    assert not errors


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/demo/", "text/html; charset=utf-8"),
        ("/demo/index.html?device=wasm", "text/html; charset=utf-8"),
        ("/demo/icon.svg", "image/svg+xml"),
        ("/faceparse/worker.js", "text/javascript; charset=utf-8"),
        ("/vendor/some.wasm", "application/wasm"),
    ],
)
def test_files_come_with_their_kind_and_the_two_headers(folder, get, path, kind):
    answer = get(path)
    assert answer.status == 200 and answer.headers["content-type"] == kind
    name = path.split("?")[0].strip("/")
    assert answer.body == (folder / (name if "." in name else f"{name}/index.html")).read_bytes()
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    again = get(path, f"If-None-Match: {answer.headers['etag'].replace('w/', 'W/')}")
    assert again.status == 304 and not again.body


def test_a_file_that_was_changed_is_sent_anew(folder, get):
    (folder / "vendor" / "new.txt").write_text("one")
    assert get("/vendor/new.txt").body == b"one"
    (folder / "vendor" / "new.txt").write_text("another")
    assert get("/vendor/new.txt").body == b"another"


@pytest.mark.parametrize("path", ["/", "/demo", "/p5js", "/vendor?x"])
def test_a_redirect_stays_on_this_server(get, path):
    answer = get(path)
    assert answer.status == 302 and re.fullmatch(r"/\w+/", answer.headers["location"])


@pytest.mark.parametrize(
    "path",
    [
        "//", "///", "//example.org", "//example.org/", "/.//example.org/..%2f", "/%2fexample.org", "/\\example.org",
        "/demo//example.org", "/demo/..//example.org/", "http://example.org/", "/demo/%2f%2fexample.org", "*", "/%",
        "/demo/%", "/demo/%00", "/demo/%ff", "/demo/%c0%ae", "/demo/" + "a" * 5000, "/demo/" + "a/" * 5000,
        "/demo/../../secret.txt", "/demo/%2e%2e/%2e%2e/secret.txt", "/demo/..%2f..%2fsecret.txt",
        "/demo/..%5c..%5csecret.txt", "/demo/....//....//secret.txt", "/demo/%252e%252e/%252e%252e/secret.txt",
        "/demo/../package.json", "/package.json", "/tools/serve.js", "/node_modules/send/index.js",
        "/demo/node_modules/a.js", "/demo/.hidden", "/demo/./.hidden", "/demo/%2ehidden", "/vendor/", "/vendor/models",
        "/demo/index.html/", "/demo/none.html", "/DEMO/",
    ],
)  # fmt: skip
def test_nothing_else_is_served_and_nobody_is_sent_away(get, path):
    answer = get(path)
    assert answer.status in (400, 404) and "location" not in answer.headers
    assert b"secret" not in answer.body and b"send" not in answer.body


def test_links_do_not_lead_out(folder, get):
    (folder / "vendor" / "out.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "vendor" / "up").symlink_to(folder.parent)
    (folder / "vendor" / "modules").symlink_to(folder / "node_modules")
    (folder / "vendor" / "package").symlink_to(folder / "package.json")
    (folder / "vendor" / "within.wasm").symlink_to(folder / "vendor" / "some.wasm")
    (folder / "vendor" / "round").symlink_to(folder / "vendor" / "round")
    for path in ("out.txt", "up/secret.txt", "up/web/package.json", "modules/send/index.js", "package", "round"):
        assert get(f"/vendor/{path}").status == 404
    assert get("/vendor/within.wasm").body == b"\0asm"


@pytest.mark.parametrize(
    "extent", ["bytes=2-1", "bytes=99999999-", "bytes=-0", "bytes=0-1,3-4", "bytes=x", "lines=1-2"]
)
def test_an_odd_range_is_answered(get, extent):
    assert get("/demo/index.html", f"Range: {extent}").status in (200, 206, 416)


def test_a_part_of_a_file(folder, get):
    answer = get("/demo/index.html", "Range: bytes=2-9")
    assert answer.status == 206 and answer.body == (folder / "demo" / "index.html").read_bytes()[2:10]


def test_other_methods_are_refused(get):
    assert get("/demo/", method="HEAD").body == b""
    assert get("/demo/", "Content-Length: 0", method="POST").status == 405
    assert get("/demo/", method="DELETE").headers["allow"] == "get, head"


@pytest.mark.parametrize("port", ["abc", "", "-1", "99999", "8000.5", "0x50", "1e3"])
def test_a_port_that_is_none_is_refused(folder, port):
    run = subprocess.run(
        ["node", "tools/serve.js"],
        cwd=folder,
        env=os.environ | {"PORT": port},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 1 and "is no port" in run.stderr and run.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_explained_and_only_this_machine_is_served(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            ["node", "tools/serve.js"], cwd=folder, env=os.environ | {"PORT": port}, capture_output=True, text=True
        )
    assert run.returncode == 1 and f"port {port} is taken" in run.stderr
