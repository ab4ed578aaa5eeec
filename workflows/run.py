"""Run a workflow on a ComfyUI server, without a screen; Python's standard library is enough.

    python workflows/run.py hair_mask --image me.jpg --set "Select Labels.labels=hair + hat"

What the server answers is data: names are checked, sizes bounded, and nothing that is there is overwritten.
Exit code 0: done; 1: it failed, and says where and why; 2: wrong usage; 130: interrupted, on the server too.
"""

import argparse
import hashlib
import json
import re
import signal
import sys
import time
import uuid
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import chain, count
from pathlib import Path
from urllib.parse import urlencode, urlsplit

try:
    import websocket  # the package websocket-client
except ImportError:
    websocket = None

HERE, CLIENT = Path(__file__).resolve().parent, uuid.uuid4().hex
FILE_INPUTS = {"LoadImage": "image", "LoadImageMask": "image", "LoadVideo": "file"}
WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
MOST_JSON, MOST_RESULT = 32 << 20, 1 << 30  # bytes


class RunError(Exception):
    """The run failed; the text is for the person."""


def ask(server: str, path: str, content: dict | bytes = b"", kind: str = "application/json", raw: bool = False):
    """The server's JSON for this path, or for this content; ``raw``: the bytes of its answer."""
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    most = MOST_RESULT if raw else MOST_JSON
    try:
        url = urlsplit(server)
        make = {"http": HTTPConnection, "https": HTTPSConnection}[url.scheme]
        with closing(make(url.netloc, timeout=120)) as connection:
            connection.request("POST" if body else "GET", url.path + path, body, {"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            content = answer.read(most)
    except (OSError, HTTPException, KeyError, OverflowError, ValueError) as error:
        raise RunError(f"no answer from {server}: {str(error).strip()}. Is ComfyUI there? See --server") from error
    if answer.length or len(content) == most:
        raise RunError(f"{server}{path}: the answer {'is too large' if len(content) == most else 'broke off'}")
    if answer.status >= 300 and (answer.status, path) != (400, "/prompt"):  # a refused graph comes with its reasons
        raise RunError(f"{server}{path} was answered with {answer.status}: {content[:200]!r}")
    found = content if raw else parsed(content or b"{}")
    if not isinstance(found, (bytes, dict)) or answer.headers.get_content_type() == "text/html":
        raise RunError(f"{server}{path} does not answer as ComfyUI does, but with {content[:80]!r}")
    return found


def parsed(content: bytes | str) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def look(data: object, *path: str, kind: type = dict):
    """What lies there in an answer; an empty one of the kind where there is none of it."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, kind) else kind()


text = partial(look, kind=str)


def plain(said: object) -> str:  # for a terminal: what would steer it is written out (\x1b)
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in str(said))


def read_graph(workflow: str) -> dict[str, dict]:
    """The graph of that name in workflows/api/, or of that file, in API format."""
    file = Path(workflow) if workflow.endswith(".json") else HERE / "api" / f"{workflow}.json"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in (HERE / "api").glob("*.json")))
        raise RunError(f"there is no workflow {workflow!r}. There are: {names}; a file in API format will do, too")
    nodes = look(graph := parsed(file.read_bytes())).values()
    if not nodes or not all(text(it, "class_type") and isinstance(it.get("inputs"), dict) for it in nodes):
        raise RunError(f"{file} is no graph in API format. ComfyUI saves one with File > Export (API)")
    return graph


def title(graph: dict, node: object) -> str:
    return text(graph, str(node), "_meta", "title") or text(graph, str(node), "class_type") or str(node)


def change(graph: dict, assignment: str) -> None:
    """Carry out one ``NODE.INPUT=VALUE``; NODE is the node's title in the graph, or its number."""
    *target, value = assignment.split("=", 1)
    names = [(f"{title(graph, n)}.{key}", f"{n}.{key}", n, key) for n in graph for key in graph[n]["inputs"]]
    found = [one for one in names if "".join(target).casefold() in (one[0].casefold(), one[1].casefold())]
    if len(found) != 1:
        known = ", ".join(f"{name} ({number})" for name, number, *_ in found or names)
        raise RunError(f"--set {assignment!r} names {len(found) or 'no'} inputs: write NODE.INPUT=VALUE with {known}")
    ((*_, node, name),) = found
    old = graph[node]["inputs"][name]
    if isinstance(old, dict):  # a list, wrapped, because the server takes a bare one for a link
        value = {"__value__": [part.strip() for part in value.split(",") if part.strip()]}
    elif isinstance(old, (int, float)):  # or true and false
        value = parsed(WORDS.get(value.casefold(), value.casefold()))
        if not isinstance(value, (int, float)) or isinstance(value, bool) != isinstance(old, bool):
            raise RunError(f"--set {assignment!r}: this is {'true or false' if isinstance(old, bool) else 'a number'}")
    graph[node]["inputs"][name] = value


def provide_files(server: str, graph: dict, picture: Path | None) -> None:
    """Upload the picture for the nodes that load one; without one, the example that the graph names."""
    loaders = {node: FILE_INPUTS[it["class_type"]] for node, it in graph.items() if it["class_type"] in FILE_INPUTS}
    if picture and not (loaders and picture.is_file()):
        raise RunError(f"there is no file {picture}" if loaders else f"{picture}: the workflow loads no file")
    examples = {file.name: file for file in (HERE.parent / "samples").glob("*.*")}
    for node, key in loaders.items():
        if file := picture or examples.get(str(graph[node]["inputs"].get(key))):
            content, name, mark = file.read_bytes(), re.sub(r"[^\w. -]", "_", file.name), uuid.uuid4().hex
            folder = f"faceparse/{hashlib.sha256(content).hexdigest()[:16]}"  # its own, so that nothing is replaced
            part = f'--{mark}\r\nContent-Disposition: form-data; name="'
            head = f'{part}subfolder"\r\n\r\n{folder}\r\n{part}image"; filename="{name}"\r\n\r\n'
            body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
            there = ask(server, "/upload/image", body, f"multipart/form-data; boundary={mark}")
            graph[node]["inputs"][key] = f"{text(there, 'subfolder')}/{text(there, 'name')}".lstrip("/")


def queue(server: str, graph: dict) -> str:
    """Queue the graph; returns the id of the run."""
    answer = ask(server, "/prompt", {"prompt": graph, "client_id": CLIENT})
    run, failed = text(answer, "prompt_id"), look(answer, "node_errors")
    if re.fullmatch(r"[\w-]+", run) and not failed:
        return run
    if run:  # the server would drop what cannot run, and run the rest
        ask(server, "/queue", {"delete": [run]})
    errors = [(node, one) for node in failed for one in look(failed, node, "errors", kind=list)]
    said = [f"{title(graph, n)} (node {n}): {text(one, 'message')}: {text(one, 'details')}" for n, one in errors]
    raise RunError("\n".join(said) or text(answer, "error", "message") or f"{server} took no graph: {answer}")


def events(server: str):
    """The server's messages to us, None where there was none for a while; without websocket-client nothing but None."""
    try:
        if websocket:
            url = f"ws{server[4:]}/ws?clientId={CLIENT}"
            link = websocket.create_connection(url, 1, http_no_proxy=["*"], redirect_limit=0, fire_cont_frame=True)
            receive = link.frame_buffer.recv_strict  # bounded: a frame that claims to be endless is not gathered
            link.frame_buffer.recv_strict = lambda size: receive(min(size, MOST_JSON))
        while websocket:
            try:
                yield parsed(link.recv_data(control_frame=True)[1])
            except websocket.WebSocketTimeoutException:
                yield None
    except (OSError, ValueError, websocket.WebSocketException) as error:
        print(f"run.py: no more progress node by node: {plain(error)[:200]}", file=sys.stderr)
    while True:
        yield time.sleep(0.5)


def wait(server: str, graph: dict, messages, run: str) -> dict:
    """Show how far the run is until it has left the queue; returns its entry in the server's history."""
    asked, state, shown = time.monotonic(), "queued", ""
    for message in messages:
        kind, data = text(message, "type"), look(message, "data")
        if data.get("prompt_id") == run and kind in ("executing", "progress") and data.get("node"):
            state = title(graph, data["node"]) + (f" {data.get('value')}/{data.get('max')}" if "max" in data else "")
        if time.monotonic() - asked >= 1 or kind == "execution_success":
            asked, queued = time.monotonic(), ask(server, "/queue")
            if run not in str(queued):
                break
            state = "running" if state == "queued" and run in str(queued.get("queue_running")) else state
        if shown != (shown := state):
            print(plain(state).replace("\n", " ")[:100], file=sys.stderr, flush=True)
    entry = look(ask(server, f"/history/{run}"), run)
    for one in look(entry, "status", "messages", kind=list):
        if isinstance(one, list) and one[:1] == ["execution_error"]:
            node = text(one[-1], "node_id")
            raise RunError(f"{title(graph, node)} (node {node}): {text(one[-1], 'exception_message').strip()}")
    if text(entry, "status", "status_str") == "error" or not entry:
        raise RunError("the run was interrupted on the server" if entry else "the run was taken out of the queue")
    return entry


def fetch(server: str, graph: dict, entry: dict, folder: Path) -> None:
    """Bring the files that the run saved into the folder, and say which; print what its nodes wrote."""
    for node, output in look(entry, "outputs").items():
        for one in (one for values in look(output).values() if isinstance(values, list) for one in values):
            if isinstance(one, str):
                print(plain(f"{title(graph, node)}: {one}"), file=sys.stderr)
            elif text(one, "type") == "output":
                there, name = {key: text(one, key) for key in ("filename", "subfolder", "type")}, text(one, "filename")
                if not name.isprintable() or not re.fullmatch(r'(?!\.)[^<>:"/\\|?*]+(?<![ .])', name):
                    raise RunError(f"the server saved a file under {name!r}, which is no name for a file here")
                print(save(ask(server, f"/view?{urlencode(there)}", raw=True), folder / name), flush=True)


def save(content: bytes, path: Path) -> Path:
    """Write a new file, whole or not at all, of this name or of the first with a number that nothing has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        for there in chain([path], (path.with_stem(f"{path.stem}-{number}") for number in count(2))):
            with suppress(FileExistsError):
                there.touch(exist_ok=False)
                return part.replace(there)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run a workflow on a ComfyUI server.")
    parser.add_argument("workflow", help="a name out of workflows/api/, or a .json file in API format")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the picture or video (default: the example)")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    parser.add_argument("--out", type=Path, default=f"run-{CLIENT[:8]}", help="folder for the results (a new one)")
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s")
    options, run = parser.parse_args(arguments), ""
    server = (options.server if "//" in options.server else f"http://{options.server}").rstrip("/")
    try:
        graph = read_graph(options.workflow)
        for assignment in options.set:
            change(graph, assignment)
        provide_files(server, graph, options.image)
        next(messages := events(server))  # connected before the run begins
        run = queue(server, graph)
        fetch(server, graph, wait(server, graph, messages, run), options.out)
    except (RunError, OSError) as error:
        print(f"run.py: {plain(error)[:4000]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        for path, content in (("/queue", {"delete": [run]}), ("/interrupt", {"prompt_id": run})) if run else ():
            with suppress(RunError):  # neither waiting nor running any more, on the server either
                ask(server, path, content)
        return 130
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
