"""Run a workflow on a ComfyUI server, without a screen; the standard library alone, to be copied from.

    python workflows/run.py hair_mask --image me.jpg --set "Select Labels.include=hair,hat" --out out/

Takes a name out of workflows/api/ or any file in API format, uploads the picture, queues the graph, shows the progress
and fetches what was saved. Exit code 0: done; 1: a node or the server failed, and it says which and why; 2: wrong
usage; 130: interrupted, on the server too.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import mimetypes
import os
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

HERE = Path(__file__).resolve().parent
# The nodes that read a file, with the input that names it.
FILE_INPUTS = {"LoadImage": "image", "LoadImageMask": "image", "LoadVideo": "file"}

Graph = dict[str, dict]


class RunError(Exception):
    """The run failed; the text is for the person."""


class Server:
    """The few requests that a run needs. ``url``: such as http://127.0.0.1:8188."""

    def __init__(self, url: str):
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RunError(f"{url!r} is no server's address; it looks like http://127.0.0.1:8188")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.secure, self.host, self.path = parts.scheme == "https", parts.hostname, parts.path.rstrip("/")
        self.port = parts.port or (443 if self.secure else 80)
        self.client = uuid.uuid4().hex

    def get(self, path: str) -> bytes:
        return self._ask("GET", path)

    def get_json(self, path: str) -> dict:
        return json.loads(self._ask("GET", path))

    def post_json(self, path: str, content: dict) -> dict:
        answer = self._ask("POST", path, json.dumps(content).encode(), "application/json")
        return json.loads(answer) if answer.strip() else {}

    def upload(self, file: Path) -> str:
        """Put a picture or a video into the server's input folder; returns the name that it has there."""
        boundary = uuid.uuid4().hex
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        name = file.name.replace('"', "'")
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        ).encode() + file.read_bytes()
        body += (
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{boundary}--\r\n'
        ).encode()
        answer = self._ask("POST", "/upload/image", body, f"multipart/form-data; boundary={boundary}")
        there = json.loads(answer)
        return "/".join(part for part in (there.get("subfolder"), there["name"]) if part)

    def events(self) -> EventStream:
        """The server's messages to this client, from now on."""
        return EventStream(self._connect(), f"{self.path}/ws?clientId={self.client}", f"{self.host}:{self.port}")

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self.host, self.port), timeout=30)
            if self.secure:
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=self.host)
            return connection
        except OSError as error:
            raise RunError(
                f"no answer from {self.url}: {error}. Is ComfyUI running there? {_ANOTHER_SERVER}"
            ) from error

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> bytes:
        make = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = make(self.host, self.port, timeout=120)
        try:
            connection.request(method, self.path + path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise RunError(
                f"no answer from {self.url}: {error}. Is ComfyUI running there? {_ANOTHER_SERVER}"
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} {self.url}{self.path}{path}", content)
        return content


_ANOTHER_SERVER = "--server names another address."


class Refused(RunError):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, request: str, content: bytes):
        self.status = status
        try:
            self.answer = json.loads(content)
        except ValueError:
            self.answer = {}
        super().__init__(f"{request} was answered with {status}: {content.decode(errors='replace')[:500]}")


class EventStream:
    """The little of a WebSocket client (RFC 6455) that reading the server's JSON messages takes."""

    def __init__(self, connection: socket.socket, path: str, host: str):
        self.connection, self.buffer = connection, b""
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0] + b" ":
            raise RunError(f"the server does not speak WebSocket at {path}: {head[:200].decode(errors='replace')}")

    def next(self, seconds: float) -> dict | None:
        """The next message; None if none came for so long. Raises ConnectionError when the server hangs up."""
        self.connection.settimeout(seconds)
        message = b""
        try:
            while True:
                final, kind, content = self._frame()
                if kind == 8:
                    raise ConnectionError("the server closed the connection")
                if kind == 9:  # ping
                    self._send(10, content)
                elif kind == 2:  # a preview picture
                    message = b""
                elif kind in (0, 1):
                    message += content
                    if final and message:
                        return json.loads(message)
        except TimeoutError:
            return None

    def close(self) -> None:
        self.connection.close()

    def _frame(self) -> tuple[bool, int, bytes]:
        # Nothing leaves the buffer before the whole frame is there: a time-out in the middle loses nothing.
        self._need(2)
        first, second = self.buffer[:2]
        length, start = second & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            self._need(start)
            length = int.from_bytes(self.buffer[2:start], "big")
        self._need(start + length)
        content, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return bool(first & 128), first & 15, content

    def _need(self, size: int) -> None:
        while len(self.buffer) < size:
            self._receive()

    def _receive(self) -> None:
        received = self.connection.recv(1 << 16)
        if not received:
            raise ConnectionError("the server closed the connection")
        self.buffer += received

    def _send(self, kind: int, content: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
        self.connection.sendall(bytes([128 | kind, 128 | len(content)]) + mask + masked)


def read_graph(workflow: str) -> Graph:
    """The graph of that name in workflows/api/, or of that file, in API format."""
    file = Path(workflow) if workflow.endswith(".json") else HERE / "api" / f"{workflow}.json"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in (HERE / "api").glob("*.json")))
        raise RunError(f"there is no workflow {workflow!r}. There are: {names}; a file in API format will do, too")
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is no JSON: {error}") from error
    if "nodes" in graph:
        raise RunError(f"{file} is in the format of the editor. In ComfyUI, save it with File > Export (API)")
    return graph


def title(graph: Graph, node: str) -> str:
    return graph[node].get("_meta", {}).get("title") or graph[node]["class_type"]


def node_definitions(server: Server, graph: Graph) -> dict[str, dict]:
    """What the server says about each kind of node in the graph."""
    definitions = {}
    for kind in sorted({node["class_type"] for node in graph.values()}):
        definitions |= server.get_json(f"/object_info/{quote(kind, safe='')}")
    missing = sorted({node["class_type"] for node in graph.values()} - definitions.keys())
    if missing:
        raise RunError(f"{server.url} has no node {', '.join(missing)}: is the node pack installed, and its log clean?")
    return definitions


def change(graph: Graph, definitions: dict[str, dict], assignment: str) -> None:
    """Carry out one ``NODE.INPUT=VALUE``; NODE is the node's title in the graph, its kind's name or its id."""
    target, equals, value = assignment.partition("=")
    if not equals:
        raise RunError(f'--set {assignment!r}: write NODE.INPUT=VALUE, for example "Select Labels.include=hair,hat"')
    found = {}
    for node, content in graph.items():
        kind = content["class_type"]
        for name in (node, title(graph, node), definitions[kind].get("display_name"), kind):
            if name and target.casefold().startswith(f"{name}.".casefold()):
                found.setdefault(node, target[len(name) + 1 :])
    if len(found) != 1:
        which = "several nodes" if found else "no node"
        titles = ", ".join(f"{title(graph, node)!r} ({node})" for node in (found or graph))
        raise RunError(f"--set {assignment!r} names {which}: choose one of {titles}, by title or number")
    node, name = next(iter(found.items()))
    inputs = _inputs(definitions[graph[node]["class_type"]])
    if name not in inputs and name not in graph[node]["inputs"]:
        raise RunError(f"--set {assignment!r}: {title(graph, node)!r} has no such input, but {', '.join(inputs)}")
    graph[node]["inputs"][name] = _typed(value, inputs.get(name, ["STRING"]), assignment)


def _inputs(definition: dict) -> dict[str, list]:
    groups = definition.get("input", {})
    return {**groups.get("required", {}), **groups.get("optional", {})}


def _typed(value: str, specification: list, assignment: str) -> object:
    """The text as the type that the node's input has."""
    kind, options = specification[0], specification[1] if len(specification) > 1 else {}
    if options.get("multi_select") or options.get("multiselect"):
        # Wrapped, because the server takes a bare list for a link to another node.
        return {"__value__": [part.strip() for part in value.split(",") if part.strip()]}
    if kind == "BOOLEAN":
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if value.casefold() not in words:
            raise RunError(f"--set {assignment!r}: this input is true or false")
        return words[value.casefold()]
    try:
        return int(value, 0) if kind == "INT" else float(value) if kind == "FLOAT" else value
    except ValueError:
        raise RunError(f"--set {assignment!r}: this input is a number") from None


def provide_files(server: Server, graph: Graph, picture: Path | None) -> None:
    """Upload the picture for the nodes that load one; without one, the example that the graph names."""
    loaders = {node: FILE_INPUTS[it["class_type"]] for node, it in graph.items() if it["class_type"] in FILE_INPUTS}
    if picture and not loaders:
        raise RunError(f"the workflow loads no file (no {', '.join(FILE_INPUTS)}), so --image has no place in it")
    if picture and not picture.is_file():
        raise RunError(f"there is no file {picture}")
    for node, name in loaders.items():
        file = picture or HERE.parent / "samples" / str(graph[node]["inputs"].get(name))
        if file.is_file():
            graph[node]["inputs"][name] = server.upload(file)


def queue(server: Server, graph: Graph) -> str:
    """Queue the graph; returns the id of the run."""
    try:
        answer = server.post_json("/prompt", {"prompt": graph, "client_id": server.client})
    except Refused as error:
        if error.status != 400 or "error" not in error.answer:
            raise
        raise RunError(_refusal(graph, error.answer)) from error
    if answer.get("node_errors"):  # the server would drop what cannot run, and run the rest
        server.post_json("/queue", {"delete": [answer["prompt_id"]]})
        raise RunError(_refusal(graph, answer))
    return answer["prompt_id"]


def _refusal(graph: Graph, answer: dict) -> str:
    errors = [
        f"{title(graph, node)} (node {node}): {one['message']}: {one['details']}"
        for node, its in answer.get("node_errors", {}).items()
        for one in its["errors"]
    ]
    error = answer.get("error", {})
    return "\n".join(errors) or str(error.get("message", error) if isinstance(error, dict) else error)


def wait(server: Server, graph: Graph, events: EventStream, run: str) -> dict:
    """Wait for the run and show how far it is; returns its entry in the server's history."""
    started, last = time.monotonic(), None
    for state in _progress(server, graph, events, run):
        if sys.stderr.isatty():  # one line that replaces itself
            print(f"\r\x1b[K{state} ({time.monotonic() - started:.0f} s)", end="", file=sys.stderr, flush=True)
        elif state != last:
            print(state, file=sys.stderr, flush=True)
        last = state
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    for _ in range(50):  # the message that all is done comes a moment before the history has it
        entry = server.get_json(f"/history/{run}").get(run)
        if entry:
            break
        time.sleep(0.1)
    else:
        raise RunError("the server has dropped the run: it was taken out of the queue, or the history was cleared")
    for kind, message in entry["status"].get("messages", []):
        if kind == "execution_error":
            node = message["node_id"]
            name = title(graph, node) if node in graph else message["node_type"]
            raise RunError(f"{name} (node {node}): {message['exception_message'].strip()}")
        if kind == "execution_interrupted":
            raise RunError("the run was interrupted on the server")
    return entry


def _progress(server: Server, graph: Graph, events: EventStream, run: str) -> Iterator[str]:
    """What the run is at, again and again until it is over."""
    state = "queued"
    while True:
        try:
            event = events.next(seconds=2)
        except ConnectionError:  # the run goes on without us; the queue tells when it is over
            event = None
            time.sleep(2)
        if event is None:
            queued = server.get_json("/queue")
            order = [
                one[1] for one in queued["queue_running"] + sorted(queued["queue_pending"], key=lambda one: one[0])
            ]
            if run not in order:
                return
            if order.index(run):
                state = f"queued, {order.index(run)} before it"
        elif event.get("data", {}).get("prompt_id") == run:
            data = event["data"]
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                return
            node = data.get("node")
            if event["type"] == "executing" and node in graph:
                state = title(graph, node)
            elif event["type"] == "progress" and node in graph:
                state = f"{title(graph, node)} {data['value']}/{data['max']}"
        yield state


def fetch(server: Server, graph: Graph, entry: dict, folder: Path) -> tuple[list[Path], list[str]]:
    """The files that the run saved, brought into the folder, and what its nodes wrote, with their titles."""
    files, texts = [], []
    for node, output in entry["outputs"].items():
        for shown in (one for values in output.values() if isinstance(values, list) for one in values):
            if isinstance(shown, str):
                texts.append(f"{title(graph, node) if node in graph else node}: {shown}")
            elif isinstance(shown, dict) and shown.get("type") == "output":
                there = {key: shown.get(key, "") for key in ("filename", "subfolder", "type")}
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / Path(shown["filename"]).name
                half = file.with_name(f".{file.name}.part")
                half.write_bytes(server.get(f"/view?{urlencode(there)}"))
                half.replace(file)
                files.append(file)
    return files, texts


def main(arguments: list[str] | None = None) -> int:
    names = ", ".join(sorted(path.stem for path in (HERE / "api").glob("*.json")))
    parser = argparse.ArgumentParser(
        description="Run a workflow on a ComfyUI server.", epilog=f"workflows that are here: {names}"
    )
    parser.add_argument("workflow", help="a name out of workflows/api/, or a .json file in API format")
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="the picture, or the video (the example, if not given)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input, by the node's title"
    )
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where the results go (here)")
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s")
    options = parser.parse_args(arguments)
    run = None
    try:
        server = Server(options.server)
        graph = read_graph(options.workflow)
        definitions = node_definitions(server, graph)
        for assignment in options.set:
            change(graph, definitions, assignment)
        provide_files(server, graph, options.image)
        events = server.events()
        try:
            run = queue(server, graph)
            entry = wait(server, graph, events, run)
        finally:
            events.close()
        files, texts = fetch(server, graph, entry, options.out)
    except RunError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if run:  # neither waiting nor running any more, on the server either
            server.post_json("/queue", {"delete": [run]})
            server.post_json("/interrupt", {"prompt_id": run})
        print("\nrun.py: interrupted", file=sys.stderr)
        return 130
    for text in texts:
        print(text, file=sys.stderr)
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
