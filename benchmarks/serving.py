"""The endpoint under load: ``python -m benchmarks.serving PICTURES [--only throughput latency overload faults]``.

PICTURES is a folder. The server is started as its user would, a process of its own on this machine, and asked over
keep-alive connections; each request is one picture, its answer the label map as PNG with the figures.

- throughput: 16 clients against the engine in a loop that makes the same answers of the same files, in turns.
- latency: a single client, and half of that throughput: evenly spaced; by the same 16 clients, each of which waits a
  while, at random, after every answer; by arrivals at random from whoever. A queue that takes the same time for each
  has its p95 at 2.76 times that of the single client by the 16, at 3.04 by the last (of 400 arrivals 2.5 to 4).
- overload: four times what it can do, for ``--seconds``: which answers come, the server's memory, how soon it is well
  again; then it is killed in mid-request and started anew.
- faults: requests that are none, and whether the server goes on.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import timing
from faceparse_core import FaceParser
from faceparse_core.scale import answers, asking
from faceparse_core.scale.openapi import small_portrait

_ROOT = Path(__file__).parents[1]
_CLIENTS = 16
_SEED = 1
_FORM = {"Content-Type": "multipart/form-data; boundary=picture"}


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    arguments.add_argument("pictures", type=Path, help="folder of pictures")
    arguments.add_argument("--only", nargs="+", default=("throughput", "latency", "overload", "faults"))
    arguments.add_argument("--count", type=int, default=48, help="pictures of a round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=300, help="of overload")
    arguments.add_argument("--arrivals", type=int, default=400, help="requests of a run of latency")
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--batch", help="of the server, if not its default")
    args = arguments.parse_args()
    files = sorted(path for path in args.pictures.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    pictures = [path.read_bytes() for path in files[: args.count]]
    words = ["--model", args.model, *(["--batch", args.batch] if args.batch else [])]
    bench = Bench(pictures, words, args)
    for name in args.only:
        with started(words) as (bench.port, bench.process):
            print(name, json.dumps(getattr(bench, name)(), indent=2), flush=True)


@contextlib.contextmanager
def started(words: list[str], port: int = 0) -> Iterator[tuple[int, subprocess.Popen]]:
    """The server, ready; its port and process."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [sys.executable, "-m", "faceparse_core", "serve", "--port", str(port), *words]
    process = subprocess.Popen(command, cwd=_ROOT, env={**os.environ, "FACEPARSE_OFFLINE": "1"})
    try:
        while _status(port, "GET", "/readyz") != 200:
            if process.poll() is not None:
                raise SystemExit("the server has ended")
            time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


class Bench:
    port: int
    process: subprocess.Popen

    def __init__(self, pictures: list[bytes], words: list[str], args: argparse.Namespace):
        self.pictures, self.words, self.args = pictures, words, args
        self.bodies = [_form(picture) for picture in pictures]
        self.rate: float | None = None

    def throughput(self) -> dict:
        parser, limits = FaceParser(self.args.model), asking.Limits()

        def loop() -> None:
            for picture in self.pictures:
                answers.answered(parser, asking.Asked([picture], asking.Options()), limits)

        loops, served = [], []
        answers.answered(parser, asking.Asked([self.pictures[0]], asking.Options()), limits)
        self._all_at_once()
        for _ in range(self.args.rounds):
            loops.append(timing.seconds(loop))
            served.append(timing.seconds(self._all_at_once))
        count = len(self.pictures)
        self.rate = count / statistics.median(served)
        return {
            "engine in a loop": f"{count / statistics.median(loops):.2f} pictures/s",
            f"server, {_CLIENTS} clients": f"{self.rate:.2f} pictures/s",
            "ratio": round(statistics.median(a / b for a, b in zip(loops, served, strict=True)), 3),
        }

    def latency(self) -> dict:
        rate = self._rate() / 2
        line = http.client.HTTPConnection("127.0.0.1", self.port)
        # Some pictures take several looks: each request is compared with the same picture's, asked alone.
        alone = {
            body: statistics.median(timing.seconds(partial(_ask, line, body)) for _ in range(3)) for body in self.bodies
        }
        single = statistics.median(alone.values())
        figures: dict = {
            "single": f"{single:.3f} s",
            "single, p95": f"{statistics.quantiles(alone.values(), n=20)[-1]:.3f} s",
            "arrivals a second": round(rate, 2),
        }
        seconds = self.args.arrivals / rate
        for name, load in (
            ("evenly spaced", lambda: self._arrivals(rate, seconds, even=True)),
            (f"{_CLIENTS} clients", lambda: self._clients(_CLIENTS / rate, seconds)),
            ("at random", lambda: self._arrivals(rate, seconds)),
        ):
            spent, statuses = load()
            seconds_each = [took for _, took in spent]
            p95 = statistics.quantiles(seconds_each, n=20)[-1]
            figures[name] = {
                "median": f"{statistics.median(seconds_each):.3f} s",
                "p95": f"{p95:.3f} s",
                "p95 over single": round(p95 / single, 2),
                "p95 of each over its own": round(
                    statistics.quantiles([took / alone[body] for body, took in spent], n=20)[-1], 2
                ),
                "answers": statuses,
            }
        figures["of an ideal queue at random"] = round(self._ideal(self.args.arrivals), 2)
        return figures

    @staticmethod
    def _ideal(arrivals: float) -> float:
        """p95 over single of one that takes the same time for each, at half of what it can do, by the same arrivals."""
        chance, due, free, spent = random.Random(_SEED), 0.0, 0.0, []
        while due < 2 * arrivals:
            free = max(due, free) + 1
            spent.append(free - due)
            due += chance.expovariate(0.5)
        return statistics.quantiles(spent, n=20)[-1]

    def overload(self) -> dict:
        rate = 4 * self._rate()
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        single = timing.seconds(lambda: _ask(line, self.bodies[0]))
        memory: list[int] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(1):
                memory.append(timing.memory("VmRSS", self.process.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        _, statuses = self._arrivals(rate, self.args.seconds, wait=False)
        start = time.perf_counter()
        over.set()
        while _status(self.port, "GET", "/readyz") != 200:
            time.sleep(0.02)
        room = time.perf_counter() - start
        status = _status(self.port, "POST", "/v1/parse", self.bodies[0], _FORM)
        recovered = time.perf_counter() - start
        watching.join()
        quarter = max(1, len(memory) // 4)
        figures = {
            "arrivals": f"{rate:.1f} a second for {self.args.seconds:g} s",
            "answers": statuses,
            "memory, second quarter": f"{statistics.median(memory[quarter : 2 * quarter]):.0f} MB",
            "memory, last quarter": f"{statistics.median(memory[-quarter:]):.0f} MB",
            "after the load's end there is room": f"{room:.2f} s",
            "… and a new request has its answer, behind the queue": f"{status} after {recovered:.2f} s",
            "alone it takes": f"{single:.2f} s",
        }
        self.process.send_signal(signal.SIGKILL)  # some of it in mid-request
        self.process.wait()
        start = time.perf_counter()
        with started(self.words, self.port) as (port, _):
            status = _status(port, "POST", "/v1/parse", self.bodies[0], _FORM)
            figures["killed and started again"] = f"{status} after {time.perf_counter() - start:.1f} s"
        return figures

    def faults(self) -> dict:
        megabytes = b"x" * (200 << 20)
        cases: dict[str, Callable[[], int | None]] = {
            "text as a picture": lambda: self._post(_form(b"text"), _FORM),
            "a wrong type": lambda: self._post(b"x", {"Content-Type": "text/plain"}),
            "200 MB": lambda: self._post(_form(megabytes), _FORM),
            "bomb of 50,000 x 50,000 pixels": lambda: self._post(_form(_bomb()), _FORM),
            "10,000 fields": lambda: self._post(_fields(10_000), _FORM),
            "JSON, 100,000 lists deep": lambda: self._post(b"[" * 100_000, {"Content-Type": "application/json"}),
            "half a request": self._half,
            "an address": lambda: self._post(b'{"image": "http://127.0.0.1/"}', {"Content-Type": "application/json"}),
        }
        figures = {}
        for name, case in cases.items():
            figures[name] = case()
            good = json.dumps({"image": small_portrait()}).encode()
            if self._post(good, {"Content-Type": "application/json"}) != 200:
                figures[name] = f"{figures[name]}, and then the server no longer answered"
        figures["memory"] = f"{timing.memory('VmRSS', self.process.pid):.0f} MB"
        return figures

    def _post(self, body: bytes, headers: dict[str, str]) -> int | None:
        return _status(self.port, "POST", "/v1/parse", body, headers)

    def _half(self) -> str:
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            line.sendall(b"POST /v1/parse HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            line.sendall(b"Content-Length: 1000\r\n\r\n{")
        return "closed"

    def _all_at_once(self) -> None:
        """Every picture once, by all clients together."""
        bodies, lock = iter(self.bodies), threading.Lock()

        def client() -> None:
            line = http.client.HTTPConnection("127.0.0.1", self.port)
            while True:
                with lock:
                    body = next(bodies, None)
                if body is None:
                    return
                while (status := _ask(line, body)) == 429:
                    time.sleep(1)  # it says so: there are more clients than it has room for
                if status != 200:
                    raise SystemExit("the server refuses what it should answer")

        threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _arrivals(
        self, rate: float, seconds: float, *, even: bool = False, wait: bool = True
    ) -> tuple[list[tuple[bytes, float]], dict]:
        """Requests, so many a second, at random or evenly spaced: each with its seconds, and how many by status."""
        told, chance = collections.Counter[int | None](), random.Random(_SEED)
        spent: list[tuple[bytes, float]] = []
        threads = []

        bodies, end = itertools.cycle(self.bodies), time.perf_counter() + seconds
        due = time.perf_counter()
        while due < end:
            time.sleep(max(0, due - time.perf_counter()))
            threads.append(threading.Thread(target=self._answered, args=(next(bodies), told, spent), daemon=True))
            threads[-1].start()
            due += 1 / rate if even else chance.expovariate(rate)
        if wait:
            for thread in threads:
                thread.join()
        return list(spent), {str(status): count for status, count in told.items()}

    def _answered(self, body: bytes, told: collections.Counter[int | None], spent: list[tuple[bytes, float]]) -> None:
        """Asks once: counts the answer's status and adds its seconds."""
        start = time.perf_counter()
        told[_status(self.port, "POST", "/v1/parse", body, _FORM)] += 1
        spent.append((body, time.perf_counter() - start))

    def _clients(self, cycle: float, seconds: float) -> tuple[list[tuple[bytes, float]], dict]:
        """Requests of all clients, each of which asks about once in a ``cycle`` of seconds, as ``_arrivals``.

        How long a client waits after an answer is told by chance; the mean is what an answer takes less than the cycle.
        """
        told, spent, end = collections.Counter[int | None](), [], time.perf_counter() + seconds

        def client(number: int) -> None:
            chance = random.Random(_SEED + number)
            while time.perf_counter() < end:
                answered = statistics.mean(took for _, took in spent) if spent else 0
                time.sleep(chance.expovariate(1 / max(1e-3, cycle - answered)))
                self._answered(chance.choice(self.bodies), told, spent)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return spent, {str(status): count for status, count in told.items()}

    def _rate(self) -> float:
        if self.rate is None:
            self._all_at_once()
            self.rate = len(self.pictures) / timing.seconds(self._all_at_once)
        return self.rate


def _form(picture: bytes) -> bytes:
    head = b'--picture\r\nContent-Disposition: form-data; name="image"; filename="picture"\r\n\r\n'
    return head + picture + b"\r\n--picture--\r\n"


def _fields(count: int) -> bytes:
    field = '--picture\r\nContent-Disposition: form-data; name="{}"\r\n\r\n1\r\n'
    return ("".join(field.format(i) for i in range(count)) + "--picture--\r\n").encode()


def _bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))


def _ask(line: http.client.HTTPConnection, body: bytes) -> int:
    line.request("POST", "/v1/parse", body, _FORM)
    answer = line.getresponse()
    answer.read()
    return answer.status


def _status(port: int, method: str, path: str, body: bytes | None = None, headers=None) -> int | None:
    """The status of an answer; None: the line broke."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        line.request(method, path, body, headers or {})
        answer = line.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return None
    finally:
        line.close()


if __name__ == "__main__":
    main()
