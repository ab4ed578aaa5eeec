"""The example graphs as files, and run.py against a server that answers as ComfyUI does; no ComfyUI is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

PACK = Path(__file__).parents[1]
GRAPHS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def read(name: str) -> dict:
    return json.loads((PACK / "workflows" / name).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- the files


def test_every_graph_has_its_api_format_and_its_picture():
    assert len(GRAPHS) == 12
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


DEFINITIONS = {
    "LoadImage": {"display_name": "Load Image", "input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "FaceParseParseFace": {
        "display_name": "Parse Face",
        "input": {"required": {"image": ["IMAGE", {}]}, "optional": {"resolution": ["INT", {}]}},
    },
    "FaceParseSelectLabels": {
        "display_name": "Select Labels",
        "input": {
            "required": {"parsing": ["FACE_PARSING", {}], "include": ["COMBO", {"multi_select": {"chip": True}}]},
            "optional": {"soft": ["BOOLEAN", {}], "expression": ["STRING", {}]},
        },
    },
    "MaskToImage": {"display_name": "Convert Mask to Image", "input": {"required": {"mask": ["MASK", {}]}}},
    "SaveImage": {
        "display_name": "Save Image",
        "input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {}]}},
    },
}


class Host(ThreadingHTTPServer):
    """Answers as ComfyUI does; ``fails`` makes the run end with an error of Parse Face."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.uploads, self.prompt, self.fails = [], None, False


class Answers(BaseHTTPRequestHandler):
    server: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = urlsplit(self.path)
        if path.path == "/ws":
            self._events()
        elif path.path.startswith("/object_info/"):
            kind = path.path.rsplit("/", 1)[1]
            self._answer({kind: DEFINITIONS[kind]} if kind in DEFINITIONS else {})
        elif path.path == "/history/run-1":
            error = {"node_id": "2", "node_type": "FaceParseParseFace", "exception_message": "no face in image 1\n"}
            messages = [["execution_error", error]] if self.server.fails else [["execution_success", {}]]
            saved = {"filename": "hair_00001_.png", "subfolder": "faceparse", "type": "output"}
            preview = {"filename": "preview.png", "subfolder": "", "type": "temp"}
            outputs = {"2": {"text": ["lite"]}, "4": {"images": [preview]}, "5": {"images": [saved]}}
            self._answer({"run-1": {"status": {"messages": messages}, "outputs": outputs}})
        elif path.path == "/view":
            self._answer(json.dumps(parse_qs(path.query)).encode())
        else:
            self._answer({"queue_running": [], "queue_pending": []})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            self.server.uploads.append(content)
            self._answer({"name": "me (1).jpg", "subfolder": "", "type": "input"})
        elif self.path == "/prompt":
            self.server.prompt = json.loads(content)
            self._answer({"prompt_id": "run-1", "node_errors": {}})
        else:
            self._answer(b"")

    def _answer(self, content):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _events(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        messages = [
            (1, {"type": "status", "data": {"status": {}}}),
            (1, {"type": "executing", "data": {"node": "2", "prompt_id": "run-1"}}),
            (9, b"ping"),
            (2, b"\x00" * 70_000),  # a preview, longer than 16 bits of length can say
            (
                1,
                {
                    "type": "progress",
                    "data": {"node": "2", "value": 3, "max": 16, "prompt_id": "run-1", "x": "-" * 200},
                },
            ),
            (1, {"type": "progress", "data": {"node": "2", "value": 1, "max": 2, "prompt_id": "somebody else's"}}),
            (
                1,
                {
                    "type": "execution_error" if self.server.fails else "execution_success",
                    "data": {"prompt_id": "run-1"},
                },
            ),
        ]
        while self.server.prompt is None:
            threading.Event().wait(0.01)
        for kind, content in messages:
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
        self.connection.recv(1000)  # the pong, or the end
        self.close_connection = True


@pytest.fixture
def host():
    server = Host()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_uploads_sets_queues_and_fetches(host, runner, tmp_path, capsys):
    (tmp_path / "me.jpg").write_bytes(b"a picture")
    arguments = ["hair_mask", "--server", host.url, "--image", str(tmp_path / "me.jpg"), "--out", str(tmp_path / "out")]
    settings = ["Select Labels.include=hair, hat", "select labels.soft=no", "2.resolution=768"]
    code = runner.main([*arguments, *(word for setting in settings for word in ("--set", setting))])
    written = capsys.readouterr()
    assert code == 0, written.err
    assert written.out.split() == [str(tmp_path / "out" / "hair_00001_.png")]
    there = json.loads((tmp_path / "out" / "hair_00001_.png").read_bytes())
    assert there == {"filename": ["hair_00001_.png"], "subfolder": ["faceparse"], "type": ["output"]}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["hair_00001_.png"]

    (upload,) = host.uploads
    assert b'filename="me.jpg"' in upload and b"a picture" in upload
    graph = host.prompt["prompt"]
    assert graph["1"]["inputs"]["image"] == "me (1).jpg", "the name that the server gave it"
    assert graph["2"]["inputs"]["resolution"] == 768
    assert graph["3"]["inputs"]["include"] == {"__value__": ["hair", "hat"]}
    assert graph["3"]["inputs"]["soft"] is False
    assert "Parse Face 3/16" in written.err and "1/2" not in written.err


def test_without_a_picture_the_example_is_uploaded(host, runner, tmp_path, capsys):
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 0
    (upload,) = host.uploads
    assert b'filename="closeup.jpg"' in upload


def test_the_error_of_a_node_is_the_error_of_the_run(host, runner, tmp_path, capsys):
    host.fails = True
    assert runner.main(["hair_mask", "--server", host.url, "--out", str(tmp_path)]) == 1
    written = capsys.readouterr()
    assert written.err.endswith("run.py: Parse Face (node 2): no face in image 1\n")
    assert not written.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("Select Labels.include", "write NODE.INPUT=VALUE"),
        ("Select Labels.inclde=hair", "has no such input, but parsing, include, soft, expression"),
        ("Selct Labels.include=hair", "names no node: choose one of 'Load Image' (1), 'Parse Face' (2)"),
        ("Parse Face.resolution=much", "is a number"),
        ("Select Labels.soft=much", "is true or false"),
    ],
)
def test_a_wrong_setting_is_explained_and_nothing_runs(host, runner, capsys, setting, says):
    assert runner.main(["hair_mask", "--server", host.url, "--set", setting]) == 1
    assert says in capsys.readouterr().err
    assert host.prompt is None and not host.uploads


def test_a_graph_of_the_editor_and_an_unknown_name_are_explained(host, runner, capsys):
    assert runner.main([str(PACK / "workflows" / "hair_mask.json"), "--server", host.url]) == 1
    assert "Export (API)" in capsys.readouterr().err
    assert runner.main(["hairmask", "--server", host.url]) == 1
    assert (
        "There are: background_removed, crop_edit_paste, group_photo, hair_cut_out, hair_mask"
        in capsys.readouterr().err
    )


def test_a_server_without_the_nodes_and_no_server_are_explained(host, runner, capsys, tmp_path):
    graph = tmp_path / "other.json"
    graph.write_text(json.dumps({"1": {"class_type": "FaceParseUnheard", "inputs": {}}}))
    assert runner.main([str(graph), "--server", host.url]) == 1
    assert "has no node FaceParseUnheard" in capsys.readouterr().err
    host.shutdown()
    host.server_close()
    assert runner.main(["hair_mask", "--server", host.url]) == 1
    assert f"no answer from {host.url}" in capsys.readouterr().err
