"""Finding, downloading, verifying, loading and saving weights; the network is a server of our own on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from faceparse_core import checkpoints
from faceparse_core.checkpoints import CheckpointError, downloads, finding, reading, table
from faceparse_core.labels import LABELS
from faceparse_core.models.lite import Lite
from faceparse_core.models.segformer import SIZES, SegFormer, SegFormerConfig

# Before the tests put a tiny checkpoint, and time enough for a busy machine, in their place.
PUBLISHED, PATIENCE, BUNDLED = dict(table.PUBLISHED), downloads._PATIENCE, table.BUNDLED_FILE
NAMES = [label.name for label in LABELS]
SHUFFLED = [7, 18, 0, 12, 3, 9, 1, 15, 4, 10, 17, 2, 6, 13, 5, 16, 11, 8, 14]
REPOSITORY, REVISION = "jonathandinu/face-parsing", "758b82e15a0178c9db39c1ff666a8b56e3a550c8"
CLOSED = "http://127.0.0.1:9"  # the port "discard": nobody listens


# -------------------------------------------------------------------------------------------- what the tests load


def tiny_config(**changes):
    """A config.json as published, for a network of a few kB."""
    return {
        "model_type": "segformer",
        "architectures": ["SegformerForSemanticSegmentation"],
        "depths": [1, 1, 2, 1],
        "hidden_sizes": [4, 8, 12, 16],
        "num_attention_heads": [1, 2, 3, 4],
        "sr_ratios": [8, 4, 2, 1],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 8,
        "hidden_act": "gelu",
        "id2label": {str(index): name for index, name in enumerate(NAMES)},
        "label2id": {name: index for index, name in enumerate(NAMES)},
        **changes,
    }


def published_weights(config, dtype=torch.float32):
    """Random weights under the key names of the published file, spelled out here and not taken from the code."""
    generator = torch.Generator().manual_seed(5)
    weights = {}

    def add(name, *shape, bias=True):
        weights[f"{name}.weight"] = (
            torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        )
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 4

    before, head = 3, config["decoder_hidden_size"]
    for stage, (depth, size, ratio) in enumerate(
        zip(config["depths"], config["hidden_sizes"], config["sr_ratios"], strict=True)
    ):
        side, hidden = (3 if stage else 7), size * config["mlp_ratios"][stage]
        add(f"segformer.encoder.patch_embeddings.{stage}.proj", size, before, side, side)
        add(f"segformer.encoder.patch_embeddings.{stage}.layer_norm", size)
        for index in range(depth):
            block = f"segformer.encoder.block.{stage}.{index}"
            add(f"{block}.layer_norm_1", size)
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                add(f"{block}.attention.{part}", size, size)
            if ratio > 1:
                add(f"{block}.attention.self.sr", size, size, ratio, ratio)
                add(f"{block}.attention.self.layer_norm", size)
            add(f"{block}.layer_norm_2", size)
            add(f"{block}.mlp.dense1", hidden, size)
            add(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            add(f"{block}.mlp.dense2", size, hidden)
        add(f"segformer.encoder.layer_norm.{stage}", size)
        add(f"decode_head.linear_c.{stage}.proj", head, size)
        before = size
    add("decode_head.linear_fuse", head, 4 * head, 1, 1, bias=False)
    add("decode_head.batch_norm", head)
    weights["decode_head.batch_norm.running_mean"] = torch.randn(head, generator=generator)
    weights["decode_head.batch_norm.running_var"] = torch.rand(head, generator=generator) + 0.5
    add("decode_head.classifier", len(config["id2label"]), head, 1, 1)
    weights = {key: tensor.to(dtype) for key, tensor in weights.items()}
    weights["decode_head.batch_norm.num_batches_tracked"] = torch.tensor(1)
    return weights


def write_published(folder, dtype=torch.float32, **changes):
    config = tiny_config(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 512, "width": 512}}))
    save_file(published_weights(config, dtype), folder / "model.safetensors", {"format": "pt"})
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path, change):
    """Rewrites a .safetensors file after ``change(tensors)``."""
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def lite():
    torch.manual_seed(2)
    return Lite().eval()


@pytest.fixture(scope="module")
def lite_file(lite, tmp_path_factory):
    return checkpoints.save(lite, tmp_path_factory.mktemp("weights") / "lite.safetensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny "segformer-b5"."""
    return write_published(tmp_path_factory.mktemp("published") / "tiny")


def published_entry(folder):
    files = [folder / name for name in ("config.json", "preprocessor_config.json", "model.safetensors")]
    return replace(
        table.PUBLISHED["segformer-b5"],
        files=tuple(
            downloads.RemoteFile(file.name, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in files
        ),
    )


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch, tiny, lite_file):
    """A process of its own: empty folders, no network, nothing remembered, and a segformer-b5 of a few kB."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "FACEPARSE_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setattr(finding, "_folders", [])
    monkeypatch.setattr(finding, "_failures", {})
    monkeypatch.setattr(finding, "_lite_announced", threading.Lock())
    monkeypatch.setattr(downloads, "_PATIENCE", 60)
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    monkeypatch.setattr(downloads, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(downloads, "_CHUNK", 4096)
    monkeypatch.setattr(table, "PUBLISHED", {"segformer-b5": published_entry(tiny)})
    monkeypatch.setattr(table, "BUNDLED_FILE", lite_file)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


# ---------------------------------------------------------------------------------------------- a hub of our own


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the hub does. ``script`` says how the next answers for the weights go wrong."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.requests = []  # (path, Range header)
        self.script = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests

    def ranges(self):
        return [given for path, given in self.requests if path.endswith("model.safetensors")]


def eventually(condition):
    """Waits for another thread, which on a busy machine takes its time."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        hub, given = self.server, self.headers.get("Range")
        hub.requests.append((self.path, given))
        name = self.path.rsplit("/", 1)[-1]
        act = hub.script.pop(0) if hub.script and name == "model.safetensors" else "serve"
        kind, _, value = act.partition(":")
        if kind == "silent":
            hub.released.wait(20)
        elif kind == "status":
            self.send_response(int(value))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "redirect":
            self.send_response(302)
            self.send_header("Location", value)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "other":
            self.reply(bytes(reversed(hub.files[name])), None)
        elif kind == "login":
            self.reply(b"<html>Welcome to our hotel</html>", None)
        elif kind == "whole":
            self.reply(hub.files[name], None)
        elif kind == "cut":
            self.reply(hub.files[name], given, stop=int(value))
        elif kind == "slow":
            self.reply(hub.files[name], given, pause=float(value))
        elif name in hub.files:
            self.reply(hub.files[name], given)
        else:
            self.send_error(404)

    def reply(self, data, given, stop=None, pause=0.0):
        start = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + 1000])
        time.sleep(pause)
        self.wfile.write(data[start + 1000 : len(data) if stop is None else max(stop, start + 1000)])
        self.close_connection = True


@pytest.fixture
def hub(tiny, monkeypatch):
    server = Hub(tiny)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def whole(folder, tiny):
    """Whether the folder has exactly the published files, and no left-overs but the lock."""
    names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    return names == sorted(path.name for path in tiny.iterdir()) and all(
        (folder / name).read_bytes() == (tiny / name).read_bytes() for name in names
    )


def left_over(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("model.safetensors"))


# ---------------------------------------------------------------------------------------------- finding


def test_the_published_files_are_pinned():
    entry = PUBLISHED["segformer-b5"]
    assert (entry.repository, entry.revision) == (REPOSITORY, REVISION)
    assert [tuple(file) for file in entry.files] == [
        ("config.json", 1_689, "01d82e818569beda6aec804642e34ce187bed43326337d52ce370ff015964d68"),
        ("preprocessor_config.json", 374, "e5a25d8fc054bf780be930e161b47d188bec1b0bf0a44fd5fdfb3f3312c0be0b"),
        ("model.safetensors", 338_580_732, "c2bec795a8c243db71bd95be538fd62559003566466c71237e45c99b920f4b62"),
    ]


def test_the_bundled_file(monkeypatch):
    monkeypatch.setattr(table, "BUNDLED_FILE", BUNDLED)
    found = checkpoints.find("lite")
    assert found.path.stat().st_size <= 10e6
    assert isinstance(checkpoints.load(found), Lite)


def test_a_path_is_taken_as_it_is(tiny, lite_file, tmp_path, monkeypatch):
    assert checkpoints.find(tiny).architecture == "segformer"
    assert checkpoints.find(str(tiny)).path == tiny
    assert checkpoints.find(tiny / "model.safetensors").path == tiny  # its config lies beside it
    found = checkpoints.find(str(lite_file))
    assert (found.name, found.path, found.architecture, found.resolution) == ("lite", lite_file, "lite", 512)
    shutil.copytree(tiny, tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    assert checkpoints.find("mine").path == tmp_path / "here" / "mine"
    assert checkpoints.find("./mine").name == "mine"


def test_nothing_at_a_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoints.find(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no/such"):
        checkpoints.find("no/such")


@pytest.mark.parametrize("model", [None, 3, ""])
def test_what_is_no_model_at_all(model):
    with pytest.raises(ValueError, match="a name such as"):
        checkpoints.find(model)


def test_an_unknown_name_gets_the_nearest_ones(home, tiny):
    shutil.copytree(tiny, home / "my-portraits")
    with pytest.raises(ValueError, match="did you mean 'segformer-b5'"):
        checkpoints.find("segfromer-b5")
    with pytest.raises(ValueError, match="did you mean 'my-portraits'"):
        checkpoints.find("my-portrait")
    with pytest.raises(ValueError, match=r"auto, lite, segformer-b5, my-portraits.*home"):
        checkpoints.find("zzz")


def test_models_in_model_folders_have_names(home, tmp_path, tiny, lite_file):
    shutil.copytree(tiny, home / "mine")
    home.joinpath("small.safetensors").write_bytes(lite_file.read_bytes())
    checkpoints.register_folder(tmp_path / "registered")
    assert checkpoints.find("mine").path == home / "mine"
    assert checkpoints.find("small").architecture == "lite"
    shutil.copytree(tiny, tmp_path / "registered" / "mine")
    assert checkpoints.find("mine").path == tmp_path / "registered" / "mine"


@pytest.mark.parametrize("variables", [{}, {"HF_HOME": "elsewhere"}, {"HF_HUB_CACHE": "elsewhere/hub"}])
def test_the_search_order(home, tmp_path, tiny, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    cache = tmp_path / ("elsewhere" if variables else "hf") / "hub"
    snapshots = cache / "models--jonathandinu--face-parsing" / "snapshots"
    checkpoints.register_folder(tmp_path / "second-rate" / ".." / "registered")
    shutil.copytree(tiny, snapshots / "0000000")
    with pytest.raises(CheckpointError, match="cannot download"):
        checkpoints.find("segformer-b5")  # what lies there is another revision
    for place in (snapshots / REVISION, home / "segformer-b5", tmp_path / "registered" / "face-parsing"):
        shutil.copytree(tiny, place)
        for name in ("segformer-b5", "SegFormer-B5", REPOSITORY, "auto"):
            found = checkpoints.find(name)
            assert (found.path.resolve(), found.name) == (place, "segformer-b5")
            assert "non-commercial" in found.note


def test_damaged_weights_of_a_known_name(home, tmp_path, tiny, caplog):
    shutil.copytree(tiny, home / "segformer-b5")
    weights = home / "segformer-b5" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=re.escape(str(weights)) + ".*bytes.*[Dd]elete"):
        checkpoints.find("segformer-b5")
    assert checkpoints.find("auto").name == "lite"
    assert str(weights) in caplog.text
    assert "damaged" in {row.name: row.where for row in checkpoints.known()}["segformer-b5"]
    snapshot = tmp_path / "hf" / "hub" / "models--jonathandinu--face-parsing" / "snapshots" / REVISION
    shutil.copytree(tiny, snapshot)
    assert checkpoints.find("segformer-b5").path == snapshot


def test_the_list_of_models(home, tiny, lite_file):
    rows = {row.name: row for row in checkpoints.known()}
    assert rows["lite"].where == str(lite_file) and rows["lite"].size == lite_file.stat().st_size
    assert rows["segformer-b5"].where == "not here" and "non-commercial" in rows["segformer-b5"].licence
    shutil.copytree(tiny, home / "segformer-b5")
    shutil.copytree(tiny, home / "mine")
    (home / "notes").mkdir()
    rows = {row.name: row for row in checkpoints.known()}
    assert set(rows) == {"lite", "segformer-b5", "mine"}
    assert rows["segformer-b5"].where == str(home / "segformer-b5")
    assert rows["mine"].size == (tiny / "model.safetensors").stat().st_size


# ---------------------------------------------------------------------------------------------- auto


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_falls_back_to_lite_and_says_so_once(caplog, capsys):
    for _ in range(3):
        assert checkpoints.find().name == "lite"
    (line,) = warnings_in(caplog)
    assert "'lite'" in line and "faceparse download segformer-b5" in line and "home" in line and "\n" not in line
    assert caplog.records[0].name == "faceparse" and not capsys.readouterr().err


def test_auto_downloads_what_is_better(hub, home, tiny, caplog):
    assert checkpoints.find("auto", progress=False).path == home / "segformer-b5"
    assert whole(home / "segformer-b5", tiny)
    assert not warnings_in(caplog)


@pytest.mark.parametrize("variable", ["FACEPARSE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_obeyed(hub, monkeypatch, caplog, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CheckpointError, match=variable):
        checkpoints.find("segformer-b5")
    with pytest.raises(CheckpointError, match=variable):
        checkpoints.download("segformer-b5")
    assert checkpoints.find("auto").name == "lite"
    assert len(warnings_in(caplog)) == 1 and variable in caplog.text
    assert not hub.requests
    monkeypatch.setenv(variable, "0")
    assert checkpoints.find("auto", progress=False).name == "segformer-b5"


def test_a_failed_download_is_not_repeated_by_auto(hub, caplog):
    hub.script = ["other"] * 9
    for _ in range(3):
        assert checkpoints.find("auto", progress=False).name == "lite"
    assert len(hub.ranges()) == 1
    (line,) = warnings_in(caplog)
    assert "sha256" in line
    hub.script.clear()
    checkpoints.download("segformer-b5", progress=False)  # who asks for it gets another try
    assert checkpoints.find("auto").name == "segformer-b5"


# ---------------------------------------------------------------------------------------------- downloading


def test_a_missing_network_is_noticed_and_remembered(home, hub, monkeypatch):
    assert PATIENCE < 5
    monkeypatch.setattr(downloads, "_PATIENCE", 0.2)
    hub.files.clear()
    silence = threading.Event()
    monkeypatch.setattr(Answer, "do_GET", lambda self: (self.server.requests.append("asked"), silence.wait(60)))
    try:
        with pytest.raises(CheckpointError, match=r"cannot download http://127\.0\.0\.1.*no answer within"):
            checkpoints.find("segformer-b5", progress=False)
        eventually(lambda: hub.requests)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="noticed before"):
                checkpoints.find("segformer-b5", progress=False)
            assert checkpoints.find("auto").name == "lite"
        assert hub.requests == ["asked"]
        with pytest.raises(CheckpointError, match="no answer"):
            checkpoints.download("segformer-b5", progress=False)
        eventually(lambda: len(hub.requests) == 2)
    finally:
        silence.set()
    # Another server is another matter.
    monkeypatch.setattr(downloads, "_PATIENCE", 60)
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    with pytest.raises(CheckpointError, match="refused"):
        checkpoints.find("segformer-b5", progress=False)


def test_a_name_that_takes_forever_to_look_up(monkeypatch):
    monkeypatch.setattr(downloads, "_PATIENCE", 0.1)
    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda *args, **kwargs: time.sleep(2))
    with pytest.raises(CheckpointError, match="no answer within 0.1 seconds"):
        checkpoints.download("segformer-b5", progress=False)


def test_a_download(hub, home, tiny):
    seen = []
    folder = checkpoints.download("segformer-b5", progress=lambda here, total: seen.append((here, total)))
    assert folder == home / "segformer-b5" and whole(folder, tiny)
    total = sum(path.stat().st_size for path in tiny.iterdir())
    assert seen == sorted(seen) and seen[-1] == (total, total) and len(seen) > 3
    assert {path.rsplit("/", 1)[0] for path, _ in hub.requests} == {f"/{REPOSITORY}/resolve/{REVISION}"}
    assert checkpoints.download(REPOSITORY) == folder  # here by now
    assert len(hub.requests) == 3


def test_a_download_shows_a_bar(hub, capsys):
    checkpoints.download("segformer-b5")
    assert "segformer-b5: 100%" in capsys.readouterr().err


def test_a_download_goes_into_the_first_registered_folder(hub, home, tmp_path, tiny):
    checkpoints.register_folder(str(tmp_path / "models"))
    checkpoints.register_folder(tmp_path / "more")
    assert checkpoints.download("segformer-b5", progress=False) == tmp_path / "models" / "segformer-b5"
    assert not home.exists()


@pytest.mark.parametrize("cut", [1, 1_000, 7_777])
def test_a_broken_connection_is_resumed(hub, home, tiny, cut):
    hub.script = [f"cut:{cut}", f"cut:{cut + 2_000}"]
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)
    first, *later = hub.ranges()
    starts = [int(given.removeprefix("bytes=").removesuffix("-")) for given in later]
    assert first is None and len(starts) == 2 and 0 < starts[0] < starts[1]


class Stop(Exception):
    pass


def stop_at(fraction):
    def progress(here, total):
        if here >= fraction * total:
            raise Stop

    return progress


def interrupt(hub, home):
    """Leaves half of the weights behind, as a process that ends does."""
    hub.script.insert(0, "slow:0.05")
    with pytest.raises(Stop):
        checkpoints.download("segformer-b5", progress=stop_at(0.2))
    (part,) = left_over(home / "segformer-b5")
    assert part.endswith(".part")
    with pytest.raises(CheckpointError, match="OFFLINE"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEPARSE_OFFLINE", "1")
        checkpoints.find("segformer-b5")  # a part counts for nothing
    hub.requests.clear()
    return home / "segformer-b5" / part


def test_an_interrupted_download_is_resumed_by_the_next(hub, home, tiny):
    part = interrupt(hub, home)
    here = part.stat().st_size
    assert here > 0
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)
    assert hub.ranges() == [f"bytes={here}-"]
    assert [path.rsplit("/")[-1] for path, _ in hub.requests] == ["model.safetensors"]  # the others were here


def test_a_server_that_cannot_resume(hub, home, tiny):
    interrupt(hub, home)
    hub.script = ["whole"]
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)


def test_a_server_that_refuses_the_range(hub, home, tiny):
    interrupt(hub, home)
    hub.script = ["status:416"]
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)


@pytest.mark.parametrize("rubbish", [b"?" * 500, b"?" * 1_000_000])
def test_a_part_that_went_bad_is_thrown_away(hub, home, tiny, rubbish):
    part = interrupt(hub, home)
    part.write_bytes(rubbish)
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)
    assert hub.ranges()[-1] is None


@pytest.mark.parametrize(("act", "says"), [("other", "sha256"), ("login", "bytes instead of.*login")])
def test_another_file_than_ours_gets_no_name(hub, home, act, says):
    hub.script = [act] * 9
    with pytest.raises(CheckpointError, match=says):
        checkpoints.find("segformer-b5", progress=False)
    assert left_over(home / "segformer-b5") == []
    assert len(hub.ranges()) == 1


def test_what_the_server_does_not_have(hub, home):
    del hub.files["model.safetensors"]
    with pytest.raises(CheckpointError, match="404") as caught:
        checkpoints.download("segformer-b5", progress=False)
    assert f"{hub.url}/{REPOSITORY}/resolve/{REVISION}/model.safetensors" in str(caught.value)
    assert len(hub.ranges()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_but_not_for_ever(hub, home, tiny, status):
    hub.script = [f"status:{status}"] * 99
    with pytest.raises(CheckpointError, match=str(status)):
        checkpoints.download("segformer-b5", progress=False)
    assert 2 <= len(hub.ranges()) <= 5
    hub.script = [f"status:{status}"]
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)


def test_redirections_keep_the_range(hub, home, tiny):
    part = interrupt(hub, home)
    hub.script = ["redirect:/elsewhere/model.safetensors", f"redirect:{hub.url}/cdn/model.safetensors"]
    here = part.stat().st_size
    assert whole(checkpoints.download("segformer-b5", progress=False), tiny)
    assert hub.ranges() == [f"bytes={here}-"] * 3


@pytest.mark.parametrize("endpoint", ["file:///etc", "ftp://127.0.0.1", "nonsense", "http://[oops"])
def test_an_endpoint_that_is_none(monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(CheckpointError):
        checkpoints.download("segformer-b5", progress=False)


def test_folders_that_cannot_be_written_are_passed_over(hub, home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    checkpoints.register_folder(tmp_path / "file" / "models")
    assert checkpoints.download("segformer-b5", progress=False) == home / "segformer-b5"
    shutil.rmtree(home)
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"file/models.*FACEPARSE_HOME"):
        checkpoints.download("segformer-b5", progress=False)


def test_a_read_only_folder(hub, home, tmp_path):
    (tmp_path / "models").mkdir(mode=0o500)
    if os.access(tmp_path / "models", os.W_OK):
        pytest.skip("permissions do not bind this user")
    checkpoints.register_folder(tmp_path / "models")
    assert checkpoints.download("segformer-b5", progress=False) == home / "segformer-b5"


def test_a_full_disk(hub, home, monkeypatch):
    real = Path.open

    def full(path, mode="r", *args, **kwargs):
        if path.suffix == ".part" and "model" in path.name and mode != "rb":
            return open("/dev/full", mode, *args, **kwargs)
        return real(path, mode, *args, **kwargs)

    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match="cannot write.*No space"):
        checkpoints.download("segformer-b5", progress=False)
    assert checkpoints.find("auto").name == "lite"


PROCESS = """
import json, sys
from faceparse_core import checkpoints as c
from faceparse_core.checkpoints import table
from faceparse_core.checkpoints.downloads import RemoteFile
entry = table.PUBLISHED["segformer-b5"]
files = tuple(RemoteFile(*file) for file in json.loads(sys.argv[1]))
table.PUBLISHED["segformer-b5"] = table.Published(entry.repository, entry.revision, files, entry.licence, entry.folders)
c.load(c.find("segformer-b5", progress=False))
assert not {"transformers", "huggingface_hub", "scipy"} & set(sys.modules)
"""


def test_two_processes_download_once(hub, home, tiny):
    hub.script = ["slow:0.5"]
    files = json.dumps(table.PUBLISHED["segformer-b5"].files)
    command = [sys.executable, "-c", PROCESS, files]
    root = Path(checkpoints.__file__).parents[2]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.wait(60) == 0, process.stderr.read()
        process.stderr.close()
    assert whole(home / "segformer-b5", tiny)
    assert hub.ranges() == [None]


def test_threads_download_once(hub, home, tiny):
    hub.script = ["slow:0.3"]
    told = []
    threads = [
        threading.Thread(
            target=checkpoints.download, args=("segformer-b5",), kwargs={"progress": lambda *n: told.append(n)}
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole(home / "segformer-b5", tiny) and hub.ranges() == [None]


def test_download_by_name(lite_file):
    assert checkpoints.download("lite") == lite_file
    for name in ("auto", "segformer-b6"):
        with pytest.raises(ValueError, match="segformer-b5"):
            checkpoints.download(name)


def test_download_notices_weights_that_rotted(home, tiny):
    shutil.copytree(tiny, home / "segformer-b5")
    weights = home / "segformer-b5" / "model.safetensors"
    assert checkpoints.download("segformer-b5") == weights.parent
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="damaged.*sha256"):
        checkpoints.download("segformer-b5")


# ---------------------------------------------------------------------------------------------- loading


def logits(path, pixels, **options):
    with torch.no_grad():
        return checkpoints.load(checkpoints.find(path), **options)(pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_published_key_names(tmp_path, pixels, dtype):
    from transformers import SegformerForSemanticSegmentation

    folder = write_published(tmp_path / "model", dtype)
    reference = SegformerForSemanticSegmentation.from_pretrained(folder).float().eval()
    expected = reference(pixel_values=pixels).logits.detach()
    network = checkpoints.load(checkpoints.find(folder))
    assert not network.training and network.folded and next(network.parameters()).dtype == torch.float32
    torch.testing.assert_close(network(pixels), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_transformers_saves(tmp_path, pixels):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(**{key: value for key, value in tiny_config().items() if key not in ("model_type",)})
    reference = SegformerForSemanticSegmentation(config).eval()
    reference.save_pretrained(tmp_path / "whole")
    reference.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    expected = reference(pixel_values=pixels).logits.detach()
    for folder in ("whole", "shards"):
        torch.testing.assert_close(logits(tmp_path / folder, pixels), expected, rtol=1e-4, atol=1e-5)
    next((tmp_path / "shards").glob("*2-of*")).unlink()
    with pytest.raises(CheckpointError, match="not complete.*2-of"):
        checkpoints.find(tmp_path / "shards")


@pytest.mark.parametrize("kind", ["segformer", "lite"])
def test_a_trainable_network(tiny, lite_file, pixels, kind):
    found = checkpoints.find(tiny if kind == "segformer" else lite_file)
    network = checkpoints.load(found, trainable=True)
    assert not network.training
    torch.testing.assert_close(network(pixels), checkpoints.load(found)(pixels), rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.train()(pixels).mean().backward()


def test_the_counter_of_the_batch_norm_may_be_missing(tmp_path, tiny, pixels):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_weights(folder / "model.safetensors", lambda w: w.pop("decode_head.batch_norm.num_batches_tracked"))
    assert torch.equal(logits(folder, pixels), logits(tiny, pixels))


def test_weights_without_a_config(tmp_path):
    config = SIZES["b0"].to_dict() | {"id2label": dict(enumerate(NAMES))}
    save_file(published_weights(config, torch.float16), tmp_path / "b0.safetensors", {"format": "pt"})
    found = checkpoints.find(tmp_path / "b0.safetensors")
    assert (found.architecture, checkpoints.load(found).config) == ("segformer", SIZES["b0"])


def test_a_file_that_changes_later_does_no_harm(tmp_path, tiny, pixels):
    folder = shutil.copytree(tiny, tmp_path / "model")
    network = checkpoints.load(checkpoints.find(folder))
    before = network(pixels)
    (folder / "model.safetensors").write_bytes(b"")
    assert torch.equal(network(pixels), before)


def test_labels_in_another_order_are_mapped_by_name(tmp_path, tiny, lite_file, pixels):
    folder = shutil.copytree(tiny, tmp_path / "model")
    titles = [LABELS[index].title for index in SHUFFLED]  # readable names will do
    edit_json(folder / "config.json", id2label=dict(enumerate(titles)))

    def shuffle(weights):
        for key in weights:
            if key.startswith("decode_head.classifier"):
                weights[key] = weights[key][SHUFFLED]

    edit_weights(folder / "model.safetensors", shuffle)
    torch.testing.assert_close(logits(folder, pixels), logits(tiny, pixels))

    weights, header = load_file(lite_file), dict(reading.read_contents(lite_file).metadata)
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = weights[key][SHUFFLED].clone()
    header["labels"] = json.dumps([NAMES[index] for index in SHUFFLED])
    save_file(weights, tmp_path / "lite.safetensors", header)
    torch.testing.assert_close(logits(tmp_path / "lite.safetensors", pixels), logits(lite_file, pixels))


@pytest.mark.parametrize(
    "names",
    [
        [f"LABEL_{index}" for index in range(19)],
        NAMES[:18],
        [*NAMES[:18], "skin"],
        [*NAMES[:18], "beard"],
        [*NAMES, "beard"],
        ["wall", "building", "sky"] * 50,
        [],
    ],
)
def test_other_labels(tmp_path, names):
    folder = write_published(tmp_path / "model", id2label=dict(enumerate(names)))
    with pytest.raises(CheckpointError, match=r"config\.json has other labels"):
        checkpoints.load(checkpoints.find(folder))


def test_a_config_that_names_our_labels_over_another_network(tmp_path):
    folder = write_published(tmp_path / "model", id2label=dict(enumerate("abcdefgh")))
    edit_json(folder / "config.json", id2label=dict(enumerate(NAMES)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors tells 8 labels apart"):
        checkpoints.load(checkpoints.find(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_hidden_size": 12},
        {"depths": [1, 1, 1, 1]},
        {"depths": [2, 1, 2, 1]},
        {"sr_ratios": [4, 4, 2, 1]},
        {"hidden_sizes": [4, 8, 12, 32]},
    ],
)
def test_a_config_that_contradicts_the_weights(tmp_path, tiny, change):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=r"config\.json contradicts the weights in .*model\.safetensors"):
        checkpoints.load(checkpoints.find(folder))


@pytest.mark.parametrize("change", [{"depths": "deep"}, {"hidden_act": "relu"}, {"num_attention_heads": None}])
def test_a_config_of_no_segformer(tmp_path, tiny, change):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        checkpoints.load(checkpoints.find(folder))


@pytest.mark.parametrize("names", [{"1": "skin"}, {"one": "skin"}, ["skin"], {"0": "skin", "00": "nose"}])
def test_label_names_without_their_channels(tmp_path, tiny, names):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_json(folder / "config.json", id2label=names)
    with pytest.raises(CheckpointError, match=r"config\.json: id2label must map"):
        checkpoints.load(checkpoints.find(folder))


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_json_that_is_none(tmp_path, tiny, text):
    for name in ("config.json", "preprocessor_config.json"):
        folder = shutil.copytree(tiny, tmp_path / name / "model")
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match=re.escape(str(folder / name))):
            checkpoints.find(folder)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["segformer", "lite"]))
def test_truncated_weights(tiny, lite_file, tmp_path_factory, fraction, kind):
    data = (tiny / "model.safetensors" if kind == "segformer" else lite_file).read_bytes()
    file = tmp_path_factory.getbasetemp() / "truncated.safetensors"
    file.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(CheckpointError, match=re.escape(str(file)) + " is damaged"):
        checkpoints.find(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<html>404</html>" * 9, "damaged or no safetensors"),
        (b"\x80\x02}q\x00.", "damaged or no safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 338580732\n", "git lfs pull"),
    ],
)
def test_foreign_bytes(tmp_path, data, says):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=says):
        checkpoints.find(tmp_path / "x.safetensors")


def test_foreign_weights(tmp_path):
    save_file({"unet.down.0.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no face parsing network.*unet.down.0.weight"):
        checkpoints.find(tmp_path / "x.safetensors")
    save_file({"decode_head.mask.weight": torch.zeros(3)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="y.safetensors"):
        checkpoints.load(checkpoints.find(tmp_path / "y.safetensors"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path, tiny, value):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit_weights(folder / "model.safetensors", lambda w: w["decode_head.linear_fuse.weight"].view(-1)[3].fill_(value))
    with pytest.raises(CheckpointError, match="damaged.*NaN"):
        checkpoints.load(checkpoints.find(folder))


def test_quantised_weights(tmp_path, tiny):
    folder = shutil.copytree(tiny, tmp_path / "model")
    key = "decode_head.linear_c.0.proj.weight"
    edit_weights(folder / "model.safetensors", lambda w: w.update({key: w[key].to(torch.int8)}))
    with pytest.raises(CheckpointError, match="linear_c.*quantised"):
        checkpoints.load(checkpoints.find(folder))


@pytest.mark.parametrize(
    "header",
    [
        {"config": "{}x"},
        {"config": '{"depth": 3}'},
        {"config": '{"width": 64}'},
        {"config": '{"blocks": [1, 0, 2, 4]}'},
        {"config": '{"blocks": [1]}'},
        {"config": '{"blocks": 3}'},
        {"config": '{"blocks": "1024"}'},
        {},
    ],
)
def test_a_lite_file_that_contradicts_itself(tmp_path, lite_file, header):
    given = dict(reading.read_contents(lite_file).metadata)
    given = {**given, **header} if header else {key: text for key, text in given.items() if key != "config"}
    save_file(load_file(lite_file), tmp_path / "x.safetensors", given)
    with pytest.raises(CheckpointError, match="x.safetensors"):
        checkpoints.load(checkpoints.find(tmp_path / "x.safetensors"))


def test_pickles_are_never_opened(tmp_path, tiny, monkeypatch):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle was opened"))
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*convert it: python -c"):
            checkpoints.find(path)


def test_folders_without_one_model(tmp_path, lite_file):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no weights: a model\.safetensors"):
        checkpoints.find(tmp_path / "empty")
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(lite_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors"):
        checkpoints.find(tmp_path)


# ---------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize(
    ("given", "resolution", "mean", "std"),
    [
        ({}, 512, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({"size": 384}, 384, (0, 0, 0), (1, 1, 1)),
        ({"size": {"height": 500, "width": 300}, "do_normalize": False}, 512, (0, 0, 0), (1, 1, 1)),
        ({"size": 640, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}, 640, (0.5,) * 3, (0.25,) * 3),
        # -1..1 from 0..255 in one step, and pixels that stay 0..255
        ({"rescale_factor": 2 / 255, "image_mean": [1] * 3, "image_std": [1] * 3}, 512, (0.5,) * 3, (0.5,) * 3),
        ({"do_rescale": False, "image_mean": [51] * 3, "image_std": [255] * 3}, 512, (0.2,) * 3, (1,) * 3),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            224,
            0,
            1,
        ),
    ],
)
def test_preprocessing_is_read(tmp_path, tiny, given, resolution, mean, std):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    found = checkpoints.find(folder)
    assert found.resolution == resolution
    assert found.mean == pytest.approx(mean if mean else (0,) * 3)
    assert found.std == pytest.approx(std if std != 1 else (1,) * 3)


@pytest.mark.parametrize(
    "given",
    [{"size": "big"}, {"size": 0}, {"size": {}}, {"image_mean": [0.5]}, {"image_mean": [0] * 3, "image_std": [0] * 3}],
)
def test_preprocessing_that_makes_no_sense(tmp_path, tiny, given):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json makes no sense"):
        checkpoints.find(folder)


# ---------------------------------------------------------------------------------------------- through transformers


def beit(folder, names=NAMES):
    from transformers import BeitConfig, BeitForSemanticSegmentation

    torch.manual_seed(3)
    config = BeitConfig(
        image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        out_indices=[1, 2, 3, 4], use_auxiliary_head=False, pool_scales=[1, 2],
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    network = BeitForSemanticSegmentation(config).eval()
    network.save_pretrained(folder)
    return network


def test_other_architectures_load_through_transformers(tmp_path):
    network = beit(tmp_path / "beit", [NAMES[index] for index in SHUFFLED])
    pixels = torch.randn(2, 3, 64, 64)
    found = checkpoints.find(tmp_path / "beit")
    assert (found.architecture, found.resolution) == ("transformers", 512)
    loaded = checkpoints.load(found)
    assert not loaded.training
    with torch.no_grad():
        expected, given = network(pixel_values=pixels).logits, loaded(pixels)
    assert given.shape[:2] == (2, 19)
    torch.testing.assert_close(given[:, SHUFFLED], expected)
    torch.testing.assert_close(loaded.to(torch.bfloat16)(pixels), given.bfloat16(), rtol=0.2, atol=0.2)


def test_networks_that_want_blue_first(tmp_path):
    network = beit(tmp_path / "beit")
    (tmp_path / "beit" / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 64, "width": 64}, "do_flip_channel_order": True})
    )
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(logits(tmp_path / "beit", pixels), network(pixel_values=pixels.flip(1)).logits)


def test_transformers_never_makes_up_weights(tmp_path):
    beit(tmp_path / "beit")
    edit_weights(
        tmp_path / "beit" / "model.safetensors", lambda w: w.pop(next(key for key in w if "classifier" in key))
    )
    with pytest.raises(CheckpointError, match=r"config\.json contradicts the weights.*classifier"):
        checkpoints.load(checkpoints.find(tmp_path / "beit"))


def test_other_architectures_with_other_labels(tmp_path):
    beit(tmp_path / "beit", ["wall", "sky", "tree"])
    with pytest.raises(CheckpointError, match="other labels.*wall"):
        checkpoints.load(checkpoints.find(tmp_path / "beit"))


@pytest.mark.parametrize("kind", ["bert", "my-own-net", None])
def test_architectures_that_parse_nothing(tmp_path, kind):
    """Nor does a checkpoint bring its own code."""
    beit(tmp_path / "beit")
    (tmp_path / "beit" / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    edit_json(
        tmp_path / "beit" / "config.json",
        model_type=kind,
        auto_map={"AutoConfig": "modeling.Net", "AutoModelForSemanticSegmentation": "modeling.Net"},
    )
    with pytest.raises(CheckpointError, match=f"type {kind!r}.*Accepted: lite.*segformer"):
        checkpoints.load(checkpoints.find(tmp_path / "beit"))
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- saving


def test_lite_is_saved_and_read(tmp_path, lite, pixels):
    path = checkpoints.save(lite, tmp_path / "new" / "mine.safetensors", metadata={"resolution": "448", "by": "me"})
    assert path == tmp_path / "new" / "mine.safetensors"
    assert [file.name for file in path.parent.iterdir()] == ["mine.safetensors"]
    contents = reading.read_contents(path)
    assert contents.metadata["format"] == "faceparse" and contents.metadata["by"] == "me"
    assert json.loads(contents.metadata["labels"]) == NAMES
    assert load_file(path)["classifier.weight"].dtype == torch.float16
    assert checkpoints.find(path).resolution == 448
    network = checkpoints.load(checkpoints.find(path))
    assert next(network.parameters()).dtype == torch.float32 and not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), lite(pixels), rtol=1e-2, atol=1e-2)
    exact = checkpoints.save(lite, tmp_path / "folder", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(logits(exact, pixels), lite(pixels))


@pytest.mark.parametrize("where", ["model", "model.safetensors"])
def test_segformer_is_saved_and_read(tmp_path, tiny, pixels, where):
    network = checkpoints.load(checkpoints.find(tiny), trainable=True)
    path = checkpoints.save(network, tmp_path / where, dtype=torch.float32)
    assert path == tmp_path / where and checkpoints.find(path).resolution == 512
    torch.testing.assert_close(logits(path, pixels), logits(tiny, pixels))
    file = path if path.is_file() else path / "model.safetensors"
    saved, given = load_file(file), load_file(tiny / "model.safetensors")
    assert saved.keys() == given.keys() and all(torch.equal(saved[key], given[key]) for key in given)


def test_transformers_reads_what_is_saved(tmp_path, tiny, pixels):
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    network = checkpoints.load(checkpoints.find(tiny), trainable=True)
    folder = checkpoints.save(network, tmp_path / "model", metadata={"resolution": "256"})
    reference, report = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert reference.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        expected = network(pixels)
        torch.testing.assert_close(reference.float().eval()(pixel_values=pixels).logits, expected, rtol=0.02, atol=0.02)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert dict(processor.size) == {"height": 256, "width": 256} and checkpoints.find(folder).resolution == 256


def test_what_cannot_be_saved(tmp_path, tiny, lite_file):
    for folded in (tiny, lite_file):
        with pytest.raises(ValueError, match="trainable=True"):
            checkpoints.save(checkpoints.load(checkpoints.find(folded)), tmp_path / "model")
    with pytest.raises(ValueError, match="not Linear"):
        checkpoints.save(torch.nn.Linear(1, 1), tmp_path / "model")
    with pytest.raises(ValueError, match="7 labels"):
        checkpoints.save(SegFormer(replace(SegFormerConfig.from_dict(tiny_config()), num_labels=7)), tmp_path / "model")
    network = checkpoints.load(checkpoints.find(tiny), trainable=True)
    with torch.no_grad():
        network.head.norm.running_var[0] = 1e6
    with pytest.raises(ValueError, match="running_var.*1e.06.*float16"):
        checkpoints.save(network, tmp_path / "model")
    assert not list(tmp_path.glob("model/*"))


def test_saving_is_all_or_nothing(tmp_path, lite, monkeypatch):
    path = checkpoints.save(lite, tmp_path / "mine.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (self.touch(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        checkpoints.save(lite, path, dtype=torch.float32)
    assert path.read_bytes() == before and [file.name for file in tmp_path.glob("*mine*")] == ["mine.safetensors"]
