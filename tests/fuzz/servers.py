"""Servers that are attacked or attack: a hub with faults, a ComfyUI that lies, and the server of the pages."""

from __future__ import annotations

import atexit
import hashlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

WEB = Path(__file__).parents[2] / "web"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]):
        super().__init__(("127.0.0.1", 0), handler)
        self.random = Random(0)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # whoever was told lies hangs up


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *given):
        pass


class Hub(_Server):
    """Serves ``files``; each of ``faults`` is what becomes of one request."""

    FAULTS = (
        "cut", "stall", "other", "longer", "shorter", "no length", "length abc", "wrong range", "ignores range", "404",
        "403", "429", "500", "503", "login", "redirect", "loop", "garbage", "nothing", "ok",
    )  # fmt: skip

    def __init__(self, files: dict[str, bytes]):
        super().__init__(_HubAnswer)
        self.files, self.faults = files, []

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


class _HubAnswer(_Quiet):
    def do_GET(self):
        hub: Hub = self.server
        fault = hub.faults.pop(0) if hub.faults else "ok"
        data = hub.files.get(self.path.rsplit("/", 1)[-1])
        if data is None or fault.isdecimal():
            self.send_response(int(fault) if fault.isdecimal() else 404)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in ("redirect", "loop"):
            self.send_response(302)
            self.send_header("Location", self.path if fault == "loop" else "/elsewhere" + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in ("garbage", "nothing"):
            self.wfile.write(b"" if fault == "nothing" else b"\0\xff SSH-2.0\r\n\r\n")
            self.close_connection = True
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and fault != "ignores range" else 0
        if fault == "other":
            data = bytes(reversed(data))
        elif fault == "login":
            data, start = b"<html>Welcome to our hotel", 0
        elif fault == "longer":
            data += b"more"
        elif fault == "shorter":
            data = data[:-4]
        self.send_response(206 if start else 200)
        if start:
            first = start + 3 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if fault != "no length":
            self.send_header("Content-Length", "abc" if fault == "length abc" else str(max(0, len(data) - start)))
        self.end_headers()
        body = data[start:]
        self.wfile.write(body[: len(body) // 2])
        if fault == "stall":
            time.sleep(0.3)
        if fault not in ("cut", "stall"):
            self.wfile.write(body[len(body) // 2 :])
        self.close_connection = True


class LyingHost(_Server):
    """Answers as ComfyUI does, or anything."""

    def __init__(self):
        super().__init__(_Lie)


_NAMES = (
    "a.png",
    "",
    ".",
    "..",
    "../escaped.png",
    "/tmp/escaped.png",
    "me.jpg",
    ".bashrc",
    "a\0.png",
    "x" * 300,
    "a\x1b[2J.png",
    5,
)


class _Lie(_Quiet):
    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self):
        random: Random = self.server.random
        if random.random() < 0.1:
            self.wfile.write(
                random.choice((b"", b"\0\xff\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab"))
            )
            self.close_connection = True
            return
        said = self._truth(random) if random.random() < 0.75 else self._nonsense(random)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        if random.random() < 0.05:
            body = b"[" * 50_000
        self.send_response(random.choice((200,) * 12 + (400, 401, 404, 500)))
        self.send_header("Content-Type", random.choice(("application/json",) * 5 + ("text/html",)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _truth(self, random: Random):
        path = self.path
        image = {"filename": random.choice(_NAMES), "subfolder": random.choice(("", "a", "../..", 7)), "type": "output"}
        if "/upload" in path:
            return {"name": random.choice(_NAMES), "subfolder": random.choice(("", "x"))}
        if "/history" in path:
            status = {"status_str": random.choice(("success", "error", 5)), "completed": True, "messages": []}
            entry = {
                "outputs": {"9": {"images": [image, image]}, "8": random.choice((None, [], {"text": ["x"]}))},
                "status": status,
            }
            return {random.choice(("r1", "r1", "other")): entry}
        if "/view" in path:
            return b"\x89PNG\r\n\x1a\n" + random.randbytes(9)
        if "/queue" in path:
            return (
                {"queue_running": [], "queue_pending": random.choice(([], [[0, "r1"]], None, 5))}
                if random.random() < 0.7
                else {}
            )
        if "/prompt" in path:
            return {"prompt_id": random.choice(("r1", "r1", "r1", "../x", 5, None)), "number": 1, "node_errors": {}}
        return {}

    def _nonsense(self, random: Random, depth: int = 0):
        kind = random.randrange(8 if depth < 3 else 5)
        if kind < 5:
            return (None, 1e308, "\x1b[31m" + "x" * random.randrange(30), True, -1)[kind]
        if kind == 5:
            return [self._nonsense(random, depth + 1) for _ in range(random.randrange(4))]
        keys = ("outputs", "status", "images", "prompt_id", "node_errors", "error", "r1", "messages", "filename")
        return {random.choice(keys): self._nonsense(random, depth + 1) for _ in range(random.randrange(4))}


class PageServer:
    """web/tools/serve.js, attacked with requests as no browser sends them."""

    def __init__(self):
        self.process = subprocess.Popen(
            [shutil.which("node"), "tools/serve.js"], cwd=WEB, env={"PORT": "0", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        atexit.register(self.process.kill)
        found = None
        while found is None:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError("the server of the pages does not start")
            found = re.search(r"127\.0\.0\.1:(\d+)|localhost:(\d+)", line)
        self.port = int(found[1] or found[2])

    def ask(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            connection.settimeout(2)
            answer = b""
            try:
                while len(answer) < 100_000 and (part := connection.recv(65536)):
                    answer += part
            except (TimeoutError, ConnectionError):
                pass
            return answer

    def attack(self, random: Random) -> None:
        pieces = ("/", "//", "..", "%2e%2e", "%2f", "%00", "%", "demo", "tools", "package.json", ".npmrc", "\\", "?")
        pieces += ("vendor", "host.example", "#", "@", "index.html", "é", "http://x/", "\0", "node_modules")
        path = "/" + "".join(random.choice(pieces) + random.choice(("", "/")) for _ in range(random.randrange(8)))
        method = random.choice(("GET",) * 8 + ("HEAD", "POST", "PUT", "BREW", ""))
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
        if random.random() < 0.3:
            request += random.choice(
                (
                    b"Range: bytes=9-1\r\n",
                    b"Range: bytes=0-,0-,0-\r\n",
                    b"If-None-Match: *\r\n",
                    b"A: " + b"b" * 70000 + b"\r\n",
                )
            )
        answer = self.ask(request + b"\r\n")
        for secret in (b'"dependencies"', b"createServer", b"registry"):
            if secret in answer:
                raise AssertionError(f"{path} gives {secret!r} away")
        moved = re.search(rb"(?mi)^Location: *(\S*)", answer)
        if moved and (not moved[1].startswith(b"/") or moved[1].startswith((b"//", b"/\\"))):
            raise AssertionError(f"{path} leads away, to {moved[1]!r}")
        if not self.ask(b"GET /demo/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200"):
            raise AssertionError(f"after {method} {path} the server does not answer any more")


def can_serve_pages() -> bool:
    """Whether there are node and, by `npm ci` in web/, what its server is made of."""
    return shutil.which("node") is not None and (WEB / "node_modules" / "send").is_dir()


@cache
def page_server() -> PageServer:
    return PageServer()
