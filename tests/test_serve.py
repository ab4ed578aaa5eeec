"""The endpoint: as an application, and as a server that is really started."""

from __future__ import annotations

import base64
import contextlib
import email.parser
import io
import json
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("multipart")

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from faceparse_core import FaceParser  # noqa: E402
from faceparse_core.cli import main  # noqa: E402
from faceparse_core.labels import LABELS  # noqa: E402
from faceparse_core.scale import asking, guard, server  # noqa: E402
from faceparse_core.scale.openapi import small_portrait  # noqa: E402

LIMITS = asking.Limits(bytes=1_500_000, pixels=200_000, pictures=3, seconds=20)


@pytest.fixture(scope="module")
def parser() -> FaceParser:
    return FaceParser("lite", "cpu", resolution=256)


@pytest.fixture(scope="module")
def jpeg(portrait) -> bytes:
    file = io.BytesIO()
    Image.open(portrait.with_name("closeup.jpg")).resize((96, 80)).save(file, format="JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def client(parser):
    with TestClient(server.app(parser, limits=LIMITS), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def expected(parser, jpeg):
    return parser.parse(Image.open(io.BytesIO(jpeg)))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---------------------------------------------------------------------------------------------- answers


def test_a_form_is_answered_as_the_engine_would(client, jpeg, expected):
    asked = {"regions": ["hair", "face - eyes"], "soft": "true", "overlay": "true"}
    response = client.post("/v1/parse", files={"image": jpeg}, data=asked)
    assert response.status_code == 200, response.text
    (told,) = response.json()["images"]
    (figures,) = expected.figures()
    assert (told["width"], told["height"], told["faces"]) == (96, 80, json.loads(json.dumps(figures["faces"])))
    assert {label["name"]: label["pixels"] for label in told["labels"]} == {
        name: values["pixels"] for name, values in figures["labels"].items()
    }
    labels = base64.b64decode(told["label_map"])
    assert (pixels(labels) == expected.labels[0].numpy()).all()
    for region in asked["regions"]:
        mask = expected.mask(region, soft=True)[0].mul(255).round().byte().numpy()
        assert (pixels(base64.b64decode(told["masks"][region])) == mask).all()
    overlay = pixels(base64.b64decode(told["overlay"]))
    wanted = expected.overlay(Image.open(io.BytesIO(jpeg)))[0].mul(255).numpy()
    assert np.abs(overlay - wanted).mean() < 6  # a JPEG


def test_json_with_run_lengths(client, jpeg, expected):
    mask = pytest.importorskip("pycocotools.mask")
    asked = {"images": [in_base64(jpeg), "data:image/jpeg;base64," + in_base64(jpeg)], "labels": "rle"}
    response = client.post("/v1/parse", json=asked)
    assert response.status_code == 200, response.text
    first, second = response.json()["images"]
    assert first == second and "label_map" not in first
    for label in first["labels"]:
        own = mask.decode({"size": [80, 96], "counts": label["counts"].encode()})
        assert np.array_equal(own, expected.labels[0].numpy() == label["id"])
        assert label["box"] == mask.toBbox({"size": [80, 96], "counts": label["counts"].encode()}).tolist()


def test_zip_and_multipart_hold_what_they_name(client, jpeg):
    files = [("image", ("a.jpg", jpeg)), ("image", ("b.jpg", jpeg))]
    data = {"regions": "hair", "overlay": "true"}
    response = client.post("/v1/parse", files=files, data=data, headers={"Accept": "application/zip"})
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    zipped = {name: archive.read(name) for name in archive.namelist()}
    response = client.post("/v1/parse", files=files, data=data, headers={"Accept": "multipart/mixed"})
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    parts = email.parser.BytesParser().parsebytes(head + response.content).get_payload()
    assert {part.get_filename(): part.get_payload(decode=True) for part in parts} == zipped
    told = json.loads(zipped.pop("answer.json"))["images"]
    named = [name for one in told for name in (one["label_map"], one["masks"]["hair"], one["overlay"])]
    assert sorted(named) == sorted(zipped) and len(named) == 6


def test_whose_mask(client, jpeg):
    asked = {"image": in_base64(jpeg), "labels": "none", "regions": ["face"]}
    for face, there in ((0, True), ("largest", True), (7, False)):
        (told,) = client.post("/v1/parse", json={**asked, "face": face}).json()["images"]
        assert pixels(base64.b64decode(told["masks"]["face"])).any() == there


def test_the_example_of_the_page_runs(client):
    body = client.get("/openapi.json").json()["paths"]["/v1/parse"]["post"]["requestBody"]["content"]
    example = body["application/json"]["schema"]["example"]
    told = client.post("/v1/parse", json=example).json()["images"][0]
    assert {"hair", "skin", "nose"} <= {label["name"] for label in told["labels"]} and len(told["faces"]) == 1
    assert set(body["application/json"]["schema"]["properties"]) == {
        "image", "images", *asking.Options.__dataclass_fields__
    }  # fmt: skip
    assert client.get("/docs").status_code == 200


def test_what_it_tells_of_itself(client, jpeg):
    client.post("/v1/parse", files={"image": jpeg})
    client.get("/made/up")
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model": "lite"}
    assert [label["name"] for label in client.get("/v1/labels").json()["labels"]] == [label.title for label in LABELS]
    figures = client.get("/metrics").text
    assert 'faceparse_requests_total{path="/v1/parse",status="200"}' in figures
    assert "made" not in figures and "faceparse_pictures_inside 0.0" in figures


def test_edits(client, parser):
    portrait = base64.b64decode(small_portrait())
    image = torch.from_numpy(pixels(portrait).copy())
    parsing = parser.parse(image)
    asked = {"hair": "#7a1f2b", "tips": "gold", "background": "transparent"}
    response = client.post("/v1/edit", files={"image": portrait}, data=asked)
    assert response.status_code == 200 and response.headers["content-type"] == "image/png", response.text
    changed = pixels(response.content)
    assert changed.shape == (112, 112, 4)
    hair, face = (parsing.mask(region)[0].bool().numpy() for region in ("hair", "face"))
    background = ~parsing.mask("person")[0].bool().numpy()
    assert np.abs(changed[..., :3][hair].astype(int) - image.numpy()[hair]).mean() > 10
    assert np.abs(changed[..., :3][face].astype(int) - image.numpy()[face]).mean() < 2
    assert changed[..., 3][background].mean() < 20 and changed[..., 3][face].mean() > 250
    lips = parsing.mask("lips")[0].bool().numpy()
    for asked in ({"look": "classic"}, {"look": {"lipstick": {"colour": "#b3121d", "strength": 1}}, "smooth": 0.4}):
        response = client.post("/v1/edit", json={"image": base64.b64encode(portrait).decode(), **asked})
        assert response.status_code == 200, response.text
        green = pixels(response.content).astype(int)[..., 1] - image.numpy()[..., 1]
        assert green[lips].mean() < -30 and abs(green[background].mean()) < 0.1
    page = client.get("/openapi.json").json()["paths"]["/v1/edit"]["post"]["requestBody"]["content"]
    example = page["application/json"]["schema"]["example"]
    blurred = pixels(client.post("/v1/edit", json=example).content)
    assert blurred.shape == (112, 112, 3) and (blurred != image.numpy()).any()


def own_glasses() -> bytes:
    """A picture to wear: two green bars."""
    bars = np.zeros((40, 120, 4), np.uint8)
    bars[5:35, 5:50] = bars[5:35, 70:115] = (0, 200, 0, 255)
    file = io.BytesIO()
    Image.fromarray(bars).save(file, format="PNG")
    return file.getvalue()


def test_glasses_are_tried_on_by_name_and_from_a_picture(client, parser):
    portrait = base64.b64decode(small_portrait())
    before = pixels(portrait).astype(int)
    eyes = parser.parse(torch.from_numpy(pixels(portrait).copy())).mask("eyes")[0].bool().numpy()

    def answered(**request) -> np.ndarray:
        response = client.post("/v1/edit", **request)
        assert response.status_code == 200, response.text
        return pixels(response.content).astype(int)

    worn = answered(files={"image": portrait}, data={"wear": "sun-glasses"})
    assert (before - worn)[eyes].mean() > 20 and np.array_equal(worn[-8:], before[-8:])
    both = answered(files={"image": portrait}, data={"wear": ["sun-glasses", "hat"]})
    assert np.abs(both - worn)[:30].mean() > 5 and np.array_equal(both[eyes], worn[eyes])
    own = answered(files=[("image", ("a.jpg", portrait)), ("wear", ("b.png", own_glasses()))])
    assert own[eyes][:, 1].mean() > 150 > 60 > own[eyes][:, 0].mean()
    picture = {"image": base64.b64encode(own_glasses()).decode()}
    in_json = {"image": base64.b64encode(portrait).decode(), "wear": [picture]}
    assert np.array_equal(answered(json=in_json), own)
    as_hat = answered(json={**in_json, "like": "hat"})
    assert np.array_equal(as_hat[eyes], before[eyes]) and (as_hat != before).any()


def test_faces_are_hidden_and_one_is_spared(client, parser):
    portrait = pixels(base64.b64decode(small_portrait()))
    file = io.BytesIO()
    Image.fromarray(np.hstack([portrait, portrait])).save(file, format="PNG")
    two = pixels(file.getvalue()).astype(int)
    assert len(parser.parse(torch.from_numpy(two).byte()).faces[0]) == 2

    def hidden(**asked: str) -> tuple[float, float]:
        """How much of the left and of the right half is changed."""
        response = client.post("/v1/edit", files={"image": file.getvalue()}, data=asked)
        assert response.status_code == 200, response.text
        changed = (pixels(response.content) != two).any(2)
        return changed[:, :112].mean(), changed[:, 112:].mean()

    left, right = hidden(privacy="pixelate")
    assert left > 0.1 and right > 0.1
    assert sorted(side > 0.1 for side in hidden(privacy="average-face", spare="0")) == [False, True]
    assert max(hidden(privacy="solid", area="eyes")) < min(left, right) / 1.5
    assert min(hidden(privacy="blur", area="all-but-the-face")) > 0.3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing is to be changed"),
        ({"tips": "gold"}, "send both"),
        ({"hair": "greenish"}, "hair: "),
        ({"look": "party"}, "look must be one of classic"),
        ({"look": "/etc/passwd"}, "look must be one of classic"),
        ({"look": {"lipstick": {}}}, "lipstick of the look needs a colour"),
        ({"smooth": 2}, "smooth must be"),
        ({"background": "/etc/passwd"}, "background: "),
        ({"background": "samples/portrait.jpg"}, "background: "),
        ({"hair": "gold", "strength": 2}, "strength must be"),
        ({"hair": "gold", "strength": "much"}, "strength must be"),
        ({"hair": ["gold"]}, "hair must be a colour"),
        ({"nose": "gold"}, "there is no nose to change"),
        ({"wear": "crown"}, "wear must be one of round-glasses, sun-glasses"),
        ({"wear": "/etc/passwd"}, "wear must be one of"),
        ({"wear": "https://example.org/hat.png"}, "wear must be one of"),
        ({"wear": {"image": "samples/portrait.jpg"}}, "the image of wear is no base64"),
        ({"wear": {"file": "hat.png"}}, "wear must be one of"),
        ({"wear": ["hat"] * 9}, "too many"),
        ({"wear": "hat", "like": "crown"}, "like must be one of"),
        ({"like": "hat", "hair": "gold"}, "send both"),
        ({"privacy": "nothing"}, "privacy must be one of pixelate, blur, solid, average-face"),
        ({"privacy": "blur", "area": "nose"}, "area must be one of face, eyes"),
        ({"hair": "gold", "area": "eyes"}, "send both"),
        ({"privacy": "blur", "spare": "all"}, "without it all are hidden"),
        ({"privacy": "blur", "spare": "nobody"}, "spare must be 'all', 'largest'"),
        ({"hair": "gold", "images": ["AAAA", "AAAA"]}, "too many"),
    ],
)
def test_bad_edits_get_a_sentence(client, asked, said):
    response = client.post("/v1/edit", json={"images": ["AAAA"], **asked})
    assert response.status_code == 400 and said in response.json()["error"], response.text


def test_what_cannot_be_worn_gets_a_sentence(client, jpeg):
    portrait = base64.b64decode(small_portrait())
    wall = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(wall, format="PNG")

    def refused(image: bytes, wear: bytes | None = None) -> str:
        files = [("image", ("a.png", image)), *([("wear", ("b.png", wear))] if wear is not None else [])]
        response = client.post("/v1/edit", files=files, data={} if wear is not None else {"wear": "hat"})
        assert response.status_code == 400, response.text
        return response.json()["error"]

    assert "must be partly transparent" in refused(portrait, jpeg)
    assert "the picture to wear is no picture" in refused(portrait, b"<svg/>")
    assert "the picture to wear is too large" in refused(portrait, big_png())
    assert "there is no face" in refused(wall.getvalue())


# ---------------------------------------------------------------------------------------------- what is refused


def big_png(side: int = 5000) -> bytes:
    """Many pixels in a small file."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("status", "said", "request_"),
    [
        (400, "no picture: JPEG", {"files": {"image": b"text"}}),
        (400, "cannot be decoded", {"files": {"image": big_png(400)[:60]}}),
        (400, "no picture: JPEG", {"files": {"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}}),
        (400, "5000x5000", {"files": {"image": big_png()}}),
        (400, "there is no picture", {"files": {"other": ("", b"")}}),
        (400, "field of the name image", {"files": {"picture": b"x"}}),
        (400, "is a text: send a file", {"data": {"image": "/etc/passwd"}, "files": {"x": ("", b"")}}),
        (400, "did you mean 'hair'", {"files": {"image": b"x"}, "data": {"regions": "hairs"}}),
        (400, "there is no size", {"files": {"image": b"x"}, "data": {"size": "3"}}),
        (400, "soft must be true or false", {"files": {"image": b"x"}, "data": {"soft": "maybe"}}),
        (400, "face must be", {"files": {"image": b"x"}, "data": {"face": "-1"}}),
        (400, "labels must be one of", {"files": {"image": b"x"}, "data": {"labels": "svg"}}),
        (400, "Too many files", {"files": [("image", b"x")] * 4}),
        (400, "Too many fields", {"files": {"image": b"x"}, "data": {f"f{i}": "1" for i in range(10_000)}}),
        (400, "addresses are not opened", {"json": {"image": "https://example.org/a.jpg"}}),
        (400, "addresses are not opened", {"json": {"image": "file:///etc/passwd"}}),
        (400, "images[1] is no text", {"json": {"images": ["AAAA", {"url": "x"}]}}),
        (400, "is empty", {"json": {"image": ""}}),
        (400, "4 pictures in one request are too many", {"json": {"images": ["AAAA"] * 4}}),
        (400, "must be a JSON object", {"json": ["AAAA"]}),
        (400, "no JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (400, "no JSON", {"content": b"[" * 200_000, "headers": {"Content-Type": "application/json"}}),
        (400, "regions must be a list", {"json": {"image": "AAAA", "regions": "hair"}}),
        (400, "regions are too many", {"json": {"image": "AAAA", "regions": ["hair"] * 17}}),
        (400, "too long", {"json": {"image": "AAAA", "regions": ["hair+" * 1000]}}),
        (400, "boundary", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        (413, "at most 1,500,000 bytes", {"files": {"image": b"x" * 2_000_000}}),
        (415, "multipart/form-data or application/json", {"content": b"x", "headers": {"Content-Type": "image/jpeg"}}),
        (415, "without a type", {"content": b"x"}),
    ],
)
def test_bad_requests_get_a_sentence(client, status, said, request_):
    response = client.post("/v1/parse", **request_)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]


def test_a_body_without_a_length_is_stopped_on_its_way(client, monkeypatch):
    monkeypatch.setattr(guard, "_SECONDS_OF_DRAINING", 0.1)
    read = 0

    def endless():
        nonlocal read
        while read < 50_000_000:
            read += 50_000
            yield b"x" * 50_000

    response = client.post("/v1/parse", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413 and "1,500,000 bytes" in response.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"X-API-Key": "schl\xfcssel"}, 401),
        ({"Authorization": "Basic geheim"}, 401),
        ({"Authorization": "Bearer geheim"}, 200),
        ({"X-API-Key": "geheim"}, 200),
    ],
)
def test_the_key(parser, jpeg, headers, status):
    with TestClient(server.app(parser, key="geheim")) as client:
        headers = {name: value.encode("latin-1") for name, value in headers.items()}
        assert client.post("/v1/parse", files={"image": jpeg}, headers=headers).status_code == status
        assert client.get("/metrics", headers=headers).status_code == status
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_the_demo_page(parser, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "index.html").write_text("<p>demo")
    (tmp_path / "secret.txt").write_text("secret")
    with TestClient(server.app(parser, key="geheim", demo=tmp_path)) as client:
        response = client.get("/")
        assert response.url.path == "/demo/" and response.text == "<p>demo"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for path in ("/demo/../secret.txt", "/demo/%2e%2e/secret.txt", "/secret.txt"):
            assert "secret" not in client.get(path).text
    with TestClient(server.app(parser)) as client:
        assert client.get("/").status_code == client.get("/demo/").status_code == 404


# ---------------------------------------------------------------------------------------------- many at once


class Slow:
    """A parser that waits until it may go on, and remembers its batches."""

    def __init__(self, parser: FaceParser):
        self.parser, self.device, self.checkpoint = parser, torch.device("cuda"), parser.checkpoint
        self.batches: list[int] = []
        self.may_go_on = threading.Event()

    def parse(self, images, **options):
        if isinstance(images, list):
            assert self.may_go_on.wait(20)
            self.batches.append(len(images))
        return self.parser.parse(images, **options)


@contextlib.contextmanager
def running(api):
    """A real server in a thread; gives its port."""
    serving = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error"))
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        while not serving.started:
            time.sleep(0.01)
        yield serving.servers[0].sockets[0].getsockname()[1]
    finally:
        serving.should_exit = True
        thread.join()


def test_what_comes_together_is_parsed_together_and_too_much_is_told_to_wait(parser, jpeg):
    httpx = pytest.importorskip("httpx")
    slow = Slow(parser)
    responses = []
    with running(server.app(slow, room=6, batch=4)) as port:

        def ask():
            url = f"http://127.0.0.1:{port}/v1/parse"
            responses.append(httpx.post(url, files={"image": jpeg}, data={"labels": "none"}, timeout=30))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(responses) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503
        slow.may_go_on.set()
        for thread in threads:
            thread.join()
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    assert sorted(response.status_code for response in responses) == [200] * 6 + [429] * 4
    refused = [response for response in responses if response.status_code == 429]
    assert all(int(response.headers["Retry-After"]) >= 1 and "full" in response.text for response in refused)
    assert sum(slow.batches) == 6 and max(slow.batches) > 1


def test_there_is_a_time_for_everything(parser, jpeg, expected):
    class Known(Slow):
        """Its answers are known before: only the waiting takes time."""

        def parse(self, images, **options):
            if isinstance(images, list):
                assert self.may_go_on.wait(20)
            return expected

    slow = Known(parser)
    limits = asking.Limits(seconds=0.5)
    with running(server.app(slow, limits=limits)) as port:
        head = b"POST /v1/parse HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(head + b"{")  # half a request
            assert b" 408 " in line.recv(1000)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(head + b"{")  # and away
        httpx = pytest.importorskip("httpx")
        url = f"http://127.0.0.1:{port}/v1/parse"
        response = httpx.post(url, files={"image": jpeg}, timeout=20)
        assert response.status_code == 503 and "no time" in response.json()["error"]
        slow.may_go_on.set()
        until = time.monotonic() + 20
        while httpx.post(url, files={"image": jpeg}, timeout=20).status_code != 200:
            assert time.monotonic() < until


def test_one_that_fails_does_not_take_the_others_with_it(parser, jpeg):
    class Fails(Slow):
        def parse(self, images, **options):
            if isinstance(images, list) and any(image.shape[0] == 33 for image in images):
                raise RuntimeError("a fault with a /secret/path")
            return super().parse(images, **options)

    file = io.BytesIO()
    Image.new("RGB", (33, 33)).save(file, format="PNG")
    fails = Fails(parser)
    fails.may_go_on.set()
    with TestClient(server.app(fails), raise_server_exceptions=False) as client:
        results = {}

        def ask(name, data):
            results[name] = client.post("/v1/parse", files={"image": data})

        threads = [threading.Thread(target=ask, args=job) for job in (("bad", file.getvalue()), ("good", jpeg))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results["good"].status_code == 200
        assert results["bad"].status_code == 500 and "secret" not in results["bad"].text


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_says_what_is_wrong(capsys):
    for words in (["--port", "99999"], ["--queue", "0"], ["--megapixels", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *words])
        assert ended.value.code == 2 and "is no whole number" in capsys.readouterr().err
    assert main(["serve", "--model", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_the_command_listens_here_alone_unless_told(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(server, "run", lambda api, host, port: given.append((host, port)))
    monkeypatch.delenv("FACEPARSE_API_KEY", raising=False)
    assert main(["serve", "--model", "lite"]) == 0
    assert given == [("127.0.0.1", 8080)] and "FACEPARSE_API_KEY" not in capsys.readouterr().err
    assert main(["serve", "--model", "lite", "--host", "0.0.0.0", "--port", "0"]) == 0
    assert "FACEPARSE_API_KEY" in capsys.readouterr().err


def test_the_small_portrait_is_one(parser):
    data = base64.b64decode(small_portrait())
    assert len(data) < 8000 and len(parser.parse(Image.open(io.BytesIO(data))).faces[0]) == 1
