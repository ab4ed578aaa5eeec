"""The example graphs as files, and run.py against a server that answers as ComfyUI does; no ComfyUI is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

PACK = Path(__file__).parents[1]
GRAPHS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def read(name: str) -> dict:
    return json.loads((PACK / "workflows" / name).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- the files


def test_every_graph_has_its_api_format_and_its_picture():
    assert len(GRAPHS) == 15
    assert sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json")) == GRAPHS
    for name in GRAPHS:
        with Image.open(PACK / "workflows" / f"{name}.jpg") as picture:
            assert picture.format == "JPEG" and picture.width >= 256


def test_no_other_folder_takes_the_address_of_the_graphs():
    # ComfyUI serves all of these under one address and asks only the first that is there.
    for folder in ("example_workflows", "example", "examples", "workflow"):
        assert not (PACK / folder).exists(), f"{folder}/ would hide workflows/ from ComfyUI's template browser"


def test_the_editor_graphs_need_no_file_that_a_server_may_not_have():
    for name in GRAPHS:
        types = {node["type"] for node in read(f"{name}.json")["nodes"]}
        assert "FaceParseSamplePortrait" in types and not types & {"LoadImage", "LoadVideo"}


def headless(editor: dict) -> dict[str, dict]:
    """The nodes of an editor graph by id, each with its type, what is wired into it and the values of its widgets, as
    they are in the API graph: without subgraphs, and with Load Image where the template has Sample Portrait (for a
    video Get Video Components), since a script brings its picture."""
    subgraphs = {subgraph["id"]: subgraph for subgraph in editor.get("definitions", {}).get("subgraphs", [])}
    links = {link[0]: [str(link[1]), link[2]] for link in editor["links"]}
    flat, results = {}, {}
    for node in editor["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        subgraph = subgraphs.get(node["type"])
        if not subgraph:
            flat[str(node["id"])] = _flat(node, links)
            continue
        outside = {slot["name"]: links.get(slot["link"]) for slot in node["inputs"]}
        inside = {}
        for link in subgraph["links"]:
            inside[link["id"]] = [str(link["origin_id"]), link["origin_slot"]]
            if link["origin_id"] == -10:
                inside[link["id"]] = outside[subgraph["inputs"][link["origin_slot"]]["name"]]
            if link["target_id"] == -20:
                results[str(node["id"]), link["target_slot"]] = inside[link["id"]]
        flat |= {str(one["id"]): _flat(one, inside) for one in subgraph["nodes"]}
    for node in flat.values():
        node["wired"] = {name: results.get(tuple(source), source) for name, source in node["wired"].items()}
    return flat


def _flat(node: dict, links: dict[int, list | None]) -> dict:
    kind = node["type"]
    if kind == "FaceParseSamplePortrait":
        kind = "GetVideoComponents" if "video" in node["widgets_values"][0] else "LoadImage"
    wired = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
    wired = {name: source for name, source in wired.items() if source}  # else a widget of the subgraph's own
    return {"type": kind, "wired": wired, "shown": node["widgets_values"]}


@pytest.mark.parametrize("name", GRAPHS)
def test_both_formats_are_one_graph(name):
    editor, api = read(f"{name}.json"), read(f"api/{name}.json")
    nodes = headless(editor)
    video = {key for key, node in api.items() if node["class_type"] == "LoadVideo"}
    assert {key: node["class_type"] for key, node in api.items() if key not in video} == {
        key: node["type"] for key, node in nodes.items()
    }

    for key, node in nodes.items():
        inputs = api[key]["inputs"]
        if node["type"] in ("LoadImage", "GetVideoComponents"):
            continue
        expected = {name: value for name, value in inputs.items() if isinstance(value, list)}
        if video and node["type"] == "CreateVideo":  # sound and frame rate are those of the video
            expected = {"images": expected["images"]}
        assert expected == node["wired"]
        for given in (value for value in inputs.values() if not isinstance(value, list)):
            assert any(given == value for value in node["shown"]), (
                f"{node['type']}: {given!r} is not what the editor shows"
            )


def test_links_stand_at_both_of_their_ends():
    files = [*(PACK / "workflows").glob("*.json"), *(PACK / "subgraphs").glob("*.json")]
    for file in files:
        graph = json.loads(file.read_text(encoding="utf-8"))
        assert _check_links(graph["nodes"], graph["links"])
        for subgraph in graph.get("definitions", {}).get("subgraphs", []):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
            ends = [
                {"id": -10, "outputs": [{**slot, "links": slot["linkIds"]} for slot in subgraph["inputs"]]},
                {"id": -20, "inputs": [{**slot, "link": slot["linkIds"][0]} for slot in subgraph["outputs"]]},
            ]
            links = [[link[key] for key in keys] for link in subgraph["links"]]
            assert _check_links([*subgraph["nodes"], *ends], links)


def _check_links(nodes: list[dict], links: list[list]) -> bool:
    by_id = {node["id"]: node for node in nodes}
    for number, source, output, target, slot, kind in links:
        start, end = by_id[source]["outputs"][output], by_id[target]["inputs"][slot]
        assert number in start["links"] and number == end["link"]
        assert kind in (start["type"], end["type"]) and ("*" in (kind, end["type"]) or kind == end["type"])
    ends = [slot["link"] for node in nodes for slot in node.get("inputs", []) if slot["link"] is not None]
    starts = [number for node in nodes for slot in node.get("outputs", []) for number in slot["links"] or ()]
    return sorted(ends) == sorted(starts) == sorted(link[0] for link in links)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_reads_from_left_to_right(name):
    graph = read(f"{name}.json")
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert [node["type"] for node in nodes.values()].count("MarkdownNote") == 1
    for node in nodes.values():
        left, top, right, bottom = _box(node)
        if node["type"] != "MarkdownNote":
            groups = [group["bounding"] for group in graph["groups"]]
            assert any(x <= left and y <= top and right <= x + w and bottom <= y + h for x, y, w, h in groups)
        for other in nodes.values():
            if other is not node:
                a, b, c, d = _box(other)
                assert right <= a or c <= left or bottom <= b or d <= top, "two nodes overlap"
    for _, source, _, target, _, _ in graph["links"]:
        assert _box(nodes[source])[2] <= _box(nodes[target])[0], "a link runs backwards"


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_can_be_read_when_it_opens(name):
    """The editor fits it into three quarters of its window. Below 0.6 it draws no text."""
    boxes = [_box(node) for node in read(f"{name}.json")["nodes"]]
    width = max(box[2] for box in boxes) - min(box[0] for box in boxes)
    height = max(box[3] for box in boxes) - min(box[1] for box in boxes)
    assert min(1600 / width, 1000 / height) * 0.75 > 0.62


def _box(node: dict) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + height  # with the title


@pytest.mark.parametrize("name", GRAPHS)
def test_titles_are_unique_so_that_set_can_name_them(name):
    titles = [node["_meta"]["title"] for node in read(f"api/{name}.json").values()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("name", GRAPHS)
def test_chosen_labels_exist(name):
    from faceparse_core.labels import resolve

    for node in read(f"api/{name}.json").values():
        if node["class_type"] == "FaceParseSelectLabels":
            assert resolve(node["inputs"]["labels"])


# ---------------------------------------------------------------------------------------------- run.py


class Host(ThreadingHTTPServer):
    """Answers as ComfyUI does, and lies where it is told to.

    ``fails``: Parse Face ends with an error of this text. ``together``: no run is over before so many are queued.
    ``lies``: what to answer instead, by the beginning of the path: JSON, bytes, or a whole HTTP answer as ``raw``.
    ``stream``: what the WebSocket sends instead of messages; ``sent``: how many bytes of it were taken.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.inputs, self.prompts, self.done, self.posted, self.watched = {}, {}, set(), [], set()
        self.fails, self.together, self.lies, self.stream, self.sent = "", 1, {}, None, 0
        self.holds = False
        self.lock = threading.Lock()

    @property
    def prompt(self) -> dict:
        """The only graph that was queued."""
        (prompt,) = self.prompts.values()
        return prompt["prompt"]

    def queue(self) -> list:
        """Runs that are not over; one that nobody watches is over when it has been asked for."""
        waiting = [[number, run] for number, run in enumerate(self.prompts) if run not in self.done]
        if len(self.prompts) >= self.together and not self.holds:
            self.done |= {run for run, prompt in self.prompts.items() if prompt.get("client_id") not in self.watched}
        return waiting


class raw(bytes):
    """Sent as it is, and then the connection ends."""


class Answers(BaseHTTPRequestHandler):
    server: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = urlsplit(self.path)
        if self._lies():
            return
        if path.path == "/ws":
            self._events(parse_qs(path.query)["clientId"][0])
        elif path.path == "/queue":
            waiting = self.server.queue()
            self._answer({"queue_running": waiting[:1], "queue_pending": waiting[1:]})
        elif path.path.startswith("/history/"):
            self._answer({run: self._entry(run) for run in self.server.done if self.path.endswith(f"/{run}")})
            self.server.queue()
        elif path.path == "/view":
            query = parse_qs(path.query)
            run = re.search(r"run-\d+", query["filename"][0]).group()
            picture = self.server.prompts[run]["prompt"]["1"]["inputs"]["image"]
            content = self.server.inputs.get(picture, b"").decode(errors="replace")
            self._answer(json.dumps([query, content]).encode())

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, content))
        if self._lies():
            return
        if self.path == "/upload/image":
            self._upload(content)
        elif self.path == "/prompt":
            prompt = json.loads(content)
            if "hiar" in str(prompt):
                errors = [{"message": "There is no label 'hiar'", "details": "did you mean hair?"}]
                self._answer({"error": {"message": "invalid"}, "node_errors": {"3": {"errors": errors}}}, status=400)
                return
            with self.server.lock:
                run = f"run-{len(self.server.prompts) + 1}"
                self.server.prompts[run] = prompt
            self._answer({"prompt_id": run, "node_errors": {}})
        else:
            self._answer(b"")

    def _lies(self) -> bool:
        for path, lie in self.server.lies.items():
            if self.path.startswith(path):
                if isinstance(lie, raw):
                    self.wfile.write(lie)
                    self.close_connection = True
                else:
                    self._answer(lie)
                return True
        return False

    def _upload(self, content: bytes):
        form = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + content)
        parts = {part.get_param("name", header="Content-Disposition"): part for part in form.get_payload()}
        picture = parts["image"].get_payload(decode=True)
        folder = parts["subfolder"].get_payload().strip() if "subfolder" in parts else ""
        name, number = parts["image"].get_filename(), 0
        path = f"{folder}/{name}".lstrip("/")
        while "overwrite" not in parts and self.server.inputs.get(path, picture) != picture:
            number += 1
            name = f"{number} {parts['image'].get_filename()}"
            path = f"{folder}/{name}".lstrip("/")
        self.server.inputs[path] = picture
        self._answer({"name": name, "subfolder": folder, "type": "input"})

    def _entry(self, run: str) -> dict:
        error = {"node_id": "2", "node_type": "FaceParseParseFace", "exception_message": f"{self.server.fails}\n"}
        messages = [["execution_error", error]] if self.server.fails else [["execution_success", {}]]
        saved = {"filename": f"hair_{run}_.png", "subfolder": "faceparse", "type": "output"}
        preview = {"filename": "preview.png", "subfolder": "", "type": "temp"}
        outputs = {"2": {"text": ["lite"]}, "4": {"images": [preview]}, "5": {"images": [saved]}}
        state = "error" if self.server.fails else "success"
        return {"status": {"status_str": state, "messages": messages}, "outputs": outputs}

    def _answer(self, content, status: int = 200):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _events(self, client: str):
        self.server.watched.add(client)
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self._message(1, {"type": "status", "data": {"status": {}}})
        while not (mine := [run for run, prompt in self.server.prompts.items() if prompt.get("client_id") == client]):
            time.sleep(0.01)
        (run,) = mine
        if self.server.stream:
            self._pour(self.server.stream, run)
        messages = [
            (1, {"type": "executing", "data": {"node": "2", "prompt_id": run}}),
            (9, b"ping"),
            (2, b"\x00" * 70_000),  # a preview, longer than 16 bits of length can say
            (1, {"type": "progress", "data": {"node": "2", "value": 3, "max": 16, "prompt_id": run, "x": "-" * 200}}),
            (1, {"type": "progress", "data": {"node": "2", "value": 1, "max": 2, "prompt_id": "somebody else's"}}),
        ]
        for kind, content in messages:
            self._message(kind, content)
        while len(self.server.prompts) < self.server.together or self.server.holds:
            time.sleep(0.01)
        self.server.done.add(run)
        self._message(1, {"type": "execution_success", "data": {"prompt_id": run}})
        self.connection.recv(1000)  # the pong, or the end
        self.close_connection = True

    def _message(self, kind: int, content):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        size = len(content)
        length = (
            bytes([size])
            if size < 126
            else b"\x7e" + size.to_bytes(2, "big")
            if size < 1 << 16
            else b"\x7f" + size.to_bytes(8, "big")
        )
        self.wfile.write(bytes([128 | kind]) + length + content)
        self.wfile.flush()

    def _pour(self, stream, run: str):
        self.server.watched.clear()  # the run is over for whoever asks
        self.connection.settimeout(1)
        try:
            for piece in stream:
                self.connection.sendall(piece)
                self.server.sent += len(piece)
        except OSError:
            self.close_connection = True


@pytest.fixture
def host():
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.holds = False
    server.shutdown()
    server.server_close()


@pytest.fixture
def quick(monkeypatch, runner):
    """run.py without WebSocket and without waiting between its questions."""
    ticks = iter(range(10, 1_000_000))
    monkeypatch.setattr(runner, "websocket", None)
    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(ticks)))


def test_a_run_uploads_sets_queues_and_fetches(host, runner, tmp_path, capsys):
    (tmp_path / "me.jpg").write_bytes(b"a picture")
    arguments = ["hair_mask", "--server", host.url, "--image", str(tmp_path / "me.jpg"), "--out", str(tmp_path / "out")]
    settings = ["select labels.soft=no", "2.resolution=768"]
    code = runner.main([*arguments, *(word for setting in settings for word in ("--set", setting))])
    written = capsys.readouterr()
    assert code == 0, written.err
    assert written.out.split() == [str(tmp_path / "out" / "hair_run-1_.png")]
    query, _ = json.loads((tmp_path / "out" / "hair_run-1_.png").read_bytes())
    assert query == {"filename": ["hair_run-1_.png"], "subfolder": ["faceparse"], "type": ["output"]}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["hair_run-1_.png"]

    ((name, content),) = host.inputs.items()
    assert re.fullmatch(r"faceparse/[0-9a-f]{16}/me\.jpg", name) and content == b"a picture"
    assert host.prompt["1"]["inputs"]["image"] == name
    assert host.prompt["2"]["inputs"]["resolution"] == 768
    assert host.prompt["3"]["inputs"]["soft"] is False
    assert "Parse Face 3/16" in written.err and "1/2" not in written.err
    assert "Parse Face: lite" in written.err


def test_labels_are_set_as_text_and_a_list_of_another_node_is_wrapped(host, runner, quick, tmp_path):
    inputs = {"labels": "face", "include": {"__value__": ["face"]}, "count": 3, "share": 0.5}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.jpg"}},
        "3": {"class_type": "FaceParseSelectLabels", "inputs": inputs, "_meta": {"title": "Select Labels"}},
    }
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    settings = ["Select Labels.labels=hair + hat", "3.include=hair, hat", "3.count=-7", "3.share=2.5e-1"]
    arguments = [str(tmp_path / "graph.json"), "--server", host.url, "--out", str(tmp_path / "out")]
    assert runner.main([*arguments, *(word for setting in settings for word in ("--set", setting))]) == 0
    expected = {"labels": "hair + hat", "include": {"__value__": ["hair", "hat"]}, "count": -7, "share": 0.25}
    assert host.prompt["3"]["inputs"] == expected


def test_without_the_websocket_package_the_queue_is_asked(host, runner, quick, tmp_path, capsys):
    host.prompts["run-0"] = {"client_id": "somebody", "prompt": {}}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    assert "queued\n" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["hair_run-2_.png"]


def test_without_a_picture_the_example_is_uploaded(host, runner, quick, tmp_path, capsys):
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    ((name, content),) = host.inputs.items()
    assert name.endswith("/closeup.jpg") and content == (PACK / "samples" / "closeup.jpg").read_bytes()


def test_the_error_of_a_node_is_the_error_of_the_run(host, runner, tmp_path, capsys):
    host.fails = "no face in image 1"
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    written = capsys.readouterr()
    assert written.err.endswith("run.py: Parse Face (node 2): no face in image 1\n")
    assert not written.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("Select Labels.soft", "names no inputs: write NODE.INPUT=VALUE with Load Image.image (1.image), "),
        ("Select Labels.sofd=yes", "names no inputs: write NODE.INPUT=VALUE with Load Image.image (1.image), "),
        ("Selct Labels.soft=yes", "Parse Face.resolution (2.resolution)"),
        ("Parse Face.resolution=much", "is a number"),
        ("Parse Face.resolution=true", "is a number"),
        ("Parse Face.resolution=[1]", "is a number"),
        ("Select Labels.soft=much", "is true or false"),
        ("Select Labels.soft=3", "is true or false"),
    ],
)
def test_a_wrong_setting_is_explained_and_nothing_runs(host, runner, capsys, setting, says):
    assert runner.main(["hair_mask", "--server", host.url, "--set", setting]) == 1
    assert says in capsys.readouterr().err
    assert not host.posted


def test_two_nodes_of_one_title_are_told_apart_by_their_numbers(host, runner, quick, tmp_path, capsys):
    graph = {str(n): {"class_type": "Blur", "inputs": {"radius": n}} for n in (1, 2)}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    assert runner.main([str(tmp_path / "graph.json"), "--server", host.url, "--set", "Blur.radius=5"]) == 1
    assert "names 2 inputs: write NODE.INPUT=VALUE with Blur.radius (1.radius), Blur.radius (2.radius)" in (
        capsys.readouterr().err
    )


def test_a_graph_of_the_editor_and_an_unknown_name_are_explained(host, runner, capsys):
    assert runner.main([str(PACK / "workflows" / "hair_mask.json"), "--server", host.url]) == 1
    assert "Export (API)" in capsys.readouterr().err
    assert runner.main(["hairmask", "--server", host.url]) == 1
    assert (
        "There are: background_removed, crop_edit_paste, face_figures, group_photo, hair_cut_out"
        in capsys.readouterr().err
    )


def test_a_server_without_the_nodes_and_no_server_are_explained(host, runner, quick, capsys):
    error = {"type": "missing_node_type", "message": "Node 'Parse Face' not found. It may not be installed."}
    content = json.dumps({"error": error, "node_errors": {}}).encode()
    host.lies["/prompt"] = raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    assert runner.main(["hair_mask", "--server", host.url]) == 1
    assert capsys.readouterr().err == "run.py: Node 'Parse Face' not found. It may not be installed.\n"
    host.shutdown()
    host.server_close()
    assert runner.main(["hair_mask", "--server", host.url]) == 1
    assert f"no answer from {host.url}" in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 400])
def test_what_a_node_refuses_is_told_and_nothing_is_left_in_the_queue(host, runner, quick, capsys, status):
    refused = {"errors": [{"message": "Value not in list", "details": "hiar; did you mean hair?"}]}
    answer = {"error": {"message": "invalid"}, "node_errors": {"3": refused}}
    content = json.dumps(answer | ({"prompt_id": "run-9"} if status == 200 else {})).encode()
    host.lies["/prompt"] = raw(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)
    assert runner.main(["hair_mask", "--server", host.url]) == 1
    assert capsys.readouterr().err == ("run.py: Select Labels (node 3): Value not in list: hiar; did you mean hair?\n")
    assert (("/queue", b'{"delete": ["run-9"]}') in host.posted) == (status == 200)


# ------------------------------------------------------------------------- nothing of anybody's is overwritten


def test_two_runs_at_once_with_pictures_of_one_name_get_each_their_own(host, tmp_path):
    host.together = 2
    processes = []
    for who in ("ada", "bob"):
        (tmp_path / who).mkdir()
        (tmp_path / who / "photo.jpg").write_bytes(f"the picture of {who}".encode())
        command = [sys.executable, PACK / "workflows" / "run.py", "hair_mask", "--server", host.url]
        command += ["--image", "photo.jpg", "--out", "out"]
        processes.append(subprocess.Popen(command, cwd=tmp_path / who, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    for who in ("ada", "bob"):
        (file,) = (tmp_path / who / "out").iterdir()
        assert json.loads(file.read_text())[1] == f"the picture of {who}"


def test_the_input_of_somebody_else_is_not_replaced(host, runner, quick, tmp_path):
    host.inputs["me.jpg"] = b"theirs"
    (tmp_path / "me.jpg").write_bytes(b"mine")
    arguments = ["hair_mask", "--server", host.url, "--image", str(tmp_path / "me.jpg"), "--out", str(tmp_path / "out")]
    assert runner.main(arguments) == 0 and runner.main(arguments) == 0
    assert host.inputs.pop("me.jpg") == b"theirs"
    assert list(host.inputs.values()) == [b"mine"], "the same picture is the same file: the server's cache holds"


def test_results_go_into_a_new_folder(host, runner, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("hair_run-1_.png").write_bytes(b"mine")
    assert runner.main(["hair_mask", "--server", host.url]) == 0
    assert Path("hair_run-1_.png").read_bytes() == b"mine"
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert capsys.readouterr().out.split() == [str(Path(folder.name, "hair_run-1_.png"))]


def test_a_file_that_is_there_is_kept(host, runner, quick, tmp_path, capsys):
    for name in ("hair_run-1_.png", "hair_run-1_-2.png"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "hair_run-1_-3.png").symlink_to(tmp_path / "nowhere")
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "hair_run-1_-4.png")]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in ("hair_run-1_.png", "hair_run-1_-2.png"))
    assert not (tmp_path / "nowhere").exists()


def results(*saved: dict) -> dict:
    return {"run-1": {"outputs": {"5": {"images": [{"type": "output", "subfolder": "", **one} for one in saved]}}}}


def test_results_of_one_name_in_two_folders_are_two(host, runner, quick, tmp_path, capsys):
    host.lies["/history/"] = results(*({"filename": "run-1.png", "subfolder": folder} for folder in ("a", "b")))
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run-1-2.png", "run-1.png"]
    folders = [json.loads((tmp_path / name).read_text())[0]["subfolder"] for name in ("run-1.png", "run-1-2.png")]
    assert folders == [["a"], ["b"]]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/tmp/run-1.png", "../run-1.png", "a/run-1.png", "a\\run-1.png", "C:run-1.png", ".bashrc-run-1",
     "run-1\x1b[2J.png", "run-1\0.png", "run-1\n.png", "run-1.", "run-1 ", "run-1\u202egnp.png", None, 7, ["run-1"]],
)  # fmt: skip
def test_a_name_that_is_no_name_is_refused(host, runner, quick, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    host.lies["/history/"] = results({"filename": name})
    assert runner.main(["hair_mask", "--server", host.url, "--out", "out"]) == 1
    written = capsys.readouterr()
    assert "no name for a file here" in written.err and "\x1b" not in written.err and not written.out
    assert not list(tmp_path.iterdir())


def test_a_graph_from_elsewhere_does_not_upload_what_it_names(host, runner, quick, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    for name in (str(tmp_path / "secret.txt"), "../pyproject.toml", "..", ""):
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": name}}}
        (tmp_path / "graph.json").write_text(json.dumps(graph))
        assert runner.main([str(tmp_path / "graph.json"), "--server", host.url, "--out", str(tmp_path / "out")]) == 0
    assert not host.inputs


# ------------------------------------------------------------------------- what the server says is data

ANSWERS = ("/upload/image", "/prompt", "/queue", "/history/", "/view")
JUNK = [
    [], {}, 7, "x", None, {"run-1": []}, {"run-1": {"outputs": [1]}}, {"run-1": {"outputs": {"5": [1]}}},
    {"run-1": {"outputs": {"5": {"images": 3, "text": [None, [], {"type": []}]}}}}, {"prompt_id": ["x"]},
    {"run-1": {"status": []}}, {"run-1": {"status": {"messages": [3, [], ["execution_error"], ["x", 3, 4]]}}},
    {"run-1": {"status": {"messages": [["execution_error", None], [None], {}]}}}, {"prompt_id": "../x"},
    {"node_errors": {"3": {"errors": 7}}, "error": "x"}, {"node_errors": [1]}, {"name": 3, "subfolder": []},
    {"node_errors": {"3": {"errors": [7, {"message": []}]}}}, {"queue_running": 3, "queue_pending": [7, [], None]},
]  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
def test_any_json_is_survived(host, runner, quick, tmp_path, capsys, path):
    for junk in JUNK:
        if path == "/queue" and "run-1" in str(junk):
            continue  # as long as the server says that the run waits, it is waited for
        host.prompts.clear()
        host.done.clear()
        host.lies = {path: junk}
        code = runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)])
        written = capsys.readouterr().err
        assert code == 0 or (code == 1 and "run.py: " in written), junk


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>Please log in</html>",
            "does not answer",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "was answered with 302"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 6\r\n\r\n\x1b[2Jno", "was answered with 500"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"half":', "broke off"),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"h', "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n{}", "broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 300_000, "too large"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer"),
        (b"", "no answer"),
    ],
)
def test_a_false_answer_is_a_sentence(host, runner, quick, tmp_path, monkeypatch, capsys, path, lie, says):
    monkeypatch.setattr(runner, "MOST_JSON", 200_000)
    monkeypatch.setattr(runner, "MOST_RESULT", 200_000)
    host.lies = {path: raw(lie)}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path / "out")]) == 1
    written = capsys.readouterr()
    error = written.err.removeprefix("queued\n").removeprefix("running\n").removeprefix("Parse Face: lite\n")
    assert error.startswith("run.py: ") and error.count("\n") == 1 and says in error
    assert "\x1b" not in error
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_nested_too_deep_is_a_sentence(host, runner, quick, capsys):
    host.lies = {"/prompt": b"[" * 200_000}
    assert runner.main(["hair_mask", "--server", host.url]) == 1
    assert "does not answer as ComfyUI does, but with b'[[[" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1:x", "ftp://127.0.0.1", "file:///etc/hosts",
     "http://a b", "http://a..b", "http://" + 80 * "\u00e4"],
)  # fmt: skip
def test_an_address_that_is_none_is_a_sentence(runner, quick, capsys, url):
    assert runner.main(["hair_mask", "--server", url]) == 1
    error = capsys.readouterr().err
    assert error.startswith("run.py: no answer from ") and error.count("\n") == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"1": 3}', '{"1": {"class_type": "X"}}', "no", "[" * 100_000, '"x"'])
def test_a_graph_that_is_none_is_a_sentence(host, runner, tmp_path, capsys, content):
    (tmp_path / "graph.json").write_text(content)
    assert runner.main([str(tmp_path / "graph.json"), "--server", host.url]) == 1
    assert "is no graph in API format" in capsys.readouterr().err
    assert not host.posted


def test_what_would_steer_the_terminal_is_written_out(host, runner, quick, tmp_path, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b"
    host.lies["/history/"] = {"run-1": {"outputs": {"2": {"text": [evil]}}}}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    host.prompts.clear()
    host.done.clear()
    host.lies, host.fails = {}, evil
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    written = capsys.readouterr()
    assert not set("\x1b\x07\x9b") & set(written.err + written.out)
    assert written.err.count(r"\x1b]0;owned\x07\x1b[2J\x9b") == 2


@pytest.mark.parametrize(
    "head", [b"\x81\x7f" + (1 << 62).to_bytes(8, "big"), b"\x01\x7f" + (1 << 20).to_bytes(8, "big")]
)
def test_a_message_without_end_is_not_gathered(host, runner, tmp_path, monkeypatch, head):
    monkeypatch.setattr(runner, "MOST_JSON", 1 << 16)
    piece = b"\x00\x7f" + (1 << 20).to_bytes(8, "big") + b" " * (1 << 20)
    host.stream = [head + b" " * (1 << 20)] + 63 * [piece]
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    assert host.sent < 32 << 20, "what buffers of the system hold, and no more"


@pytest.mark.parametrize(
    "stream", [[b"\x81\x03{x}"], [b"\x81\x02[]"], [b"\xff\xff\xff"], [b"\x81\x02\xff\xfe"], [b"\x88\x00"]]
)
def test_a_websocket_that_says_nonsense_costs_no_more_than_the_progress(host, runner, tmp_path, stream):
    host.stream = stream
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0


def test_pings_without_end_do_not_keep_the_run_from_ending(host, runner, tmp_path):
    def pings():
        until = time.monotonic() + 20
        while time.monotonic() < until and "run-1" not in host.done:
            yield b"\x89\x00"
            time.sleep(0.001)

    host.stream = pings()
    started = time.monotonic()
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    assert time.monotonic() - started < 15


# ------------------------------------------------------------------------- ends


def start(host: Host, folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, PACK / "workflows" / "run.py", "hair_mask", "--server", host.url, *arguments]
    # Where these tests are a job in the background, it would ignore the interrupt.
    listen = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, **pipes, text=True, preexec_fn=listen)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("answers", [True, False])
def test_an_interrupted_run_is_taken_back(host, tmp_path, sign, answers):
    host.holds = True
    process = start(host, tmp_path)
    while "Parse Face" not in process.stderr.readline():
        assert process.poll() is None
    if not answers:
        host.lies = {"/": raw(b"")}
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.endswith("run.py: interrupted\n")
    assert [one for one in host.posted if one[0] in ("/queue", "/interrupt")] == [
        ("/queue", b'{"delete": ["run-1"]}'),
        ("/interrupt", b'{"prompt_id": "run-1"}'),
    ]
    assert not list(tmp_path.iterdir())


def test_a_server_that_goes_away_is_a_sentence(host, runner, quick, tmp_path, capsys):
    host.lies = {"/queue": raw(b"")}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    assert f"no answer from {host.url}" in capsys.readouterr().err


def test_a_run_that_was_taken_out_or_interrupted_is_a_sentence(host, runner, quick, tmp_path, capsys):
    host.lies = {"/history/": {}}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    assert "run.py: the run was taken out of the queue\n" in capsys.readouterr().err
    host.lies = {"/history/": {"run-2": {"status": {"status_str": "error"}}}}
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    assert "run.py: the run was interrupted on the server\n" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half(host, runner, quick, tmp_path, monkeypatch, capsys):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- the recipe with curl


@pytest.fixture
def recipe(host, tmp_path):
    """Runs the recipe of docs/headless.md beside workflows/ and a picture; changes are made to its text."""
    for tool in ("bash", "curl", "jq", "sha256sum"):
        if not shutil.which(tool):
            pytest.skip(f"there is no {tool} here")
    (recipe,) = re.findall(r"```sh\n(\(\n.*?)```", (PACK / "docs" / "headless.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "workflows").symlink_to(PACK / "workflows")
    (tmp_path / "me.jpg").write_bytes(b"my picture")

    def run(**changes: str) -> subprocess.CompletedProcess:
        text = recipe.replace("http://127.0.0.1:8188", host.url)
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def test_the_recipe_with_curl(host, recipe, tmp_path):
    host.inputs["me.jpg"] = b"theirs"
    run = recipe()
    assert run.returncode == 0 and not run.stderr, run.stderr
    query, content = json.loads((tmp_path / "hair.png").read_text())
    assert query["filename"] == ["hair_run-1_.png"] and content == "my picture"
    assert host.prompt["3"]["inputs"]["labels"] == "hair + hat"
    assert host.inputs.pop("me.jpg") == b"theirs"
    (name,) = host.inputs
    assert re.fullmatch(r"faceparse/[0-9a-f]{16}/me\.jpg", name)


def test_the_recipe_with_curl_fails_loudly(host, recipe, tmp_path):
    (tmp_path / "hair.png").write_bytes(b"mine")
    run = recipe()
    assert run.returncode and "hair.png is there already" in run.stderr
    assert (tmp_path / "hair.png").read_bytes() == b"mine" and not host.inputs
    (tmp_path / "hair.png").unlink()

    run = recipe(hat="hiar")
    assert run.returncode and "There is no label 'hiar': did you mean hair?" in run.stderr
    host.fails = "no face in image 1"
    run = recipe()
    assert run.returncode and "no face in image 1" in run.stderr
    host.fails = ""
    page, half = b"<html>Please log in</html>", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
    for path, lie in (("/upload/image", {}), ("/prompt", page), ("/history/", page), ("/view", half)):
        host.lies = {path: lie}
        run = recipe()
        assert run.returncode and run.stderr, path
