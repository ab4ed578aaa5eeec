"""Nothing let in: checkpoints that lie, models that want to be fetched, pictures and arguments that are none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from faceparse_core import FaceParser, checkpoints, images
from faceparse_core.checkpoints import Checkpoint, CheckpointError, downloads, foreign
from faceparse_core.checkpoints.downloads import RemoteFile, Server, fetch
from faceparse_core.faces import Tracker
from faceparse_core.labels import LABELS
from faceparse_core.models.onnx import OnnxModel
from faceparse_core.parsing import Parsing

ROOT = Path(__file__).parents[1]
NAMES = {str(label.id): label.name for label in LABELS}


class Flat(torch.nn.Module):
    """A network that says the same of everything."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = value

    def forward(self, pixels):
        return torch.full((len(pixels), 19, pixels.shape[2] // 4, pixels.shape[3] // 4), self.value)


def parser(network=None, **options):
    checkpoint = Checkpoint("flat", Path("flat.safetensors"), "segformer", 64)
    return FaceParser(checkpoint, "cpu", "fp32", network=network or Flat(), **options)


@pytest.fixture
def refusing(monkeypatch):
    """A socket that refuses, and what was wanted from it."""
    wanted = []

    def refuse(*given, **named):
        wanted.append(given)
        raise OSError("nothing leaves this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return wanted


# ---------------------------------------------------------------------------------------------- the network


@pytest.fixture
def folder(tmp_path):
    """A folder as transformers saves models, with weights of no use."""
    save_file({"decode_head.other.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})

    def write(**config):
        (tmp_path / "config.json").write_text(json.dumps({"id2label": NAMES, **config}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "upernet", "backbone": "microsoft/resnet-50"},
        {"model_type": "upernet", "backbone": "resnet50", "use_timm_backbone": True, "use_pretrained_backbone": True},
        {"model_type": "dpt", "backbone": "google/vit-hybrid", "is_hybrid": True},
        {"model_type": "upernet", "backbone_config": {"model_type": "maskformer-swin", "backbone": "x/y"}},
    ],
)
def test_a_config_that_names_a_backbone_elsewhere(folder, refusing, config):
    found = checkpoints.find(folder(**config))
    with pytest.raises(CheckpointError, match="names a backbone, '.*, that lies elsewhere"):
        checkpoints.load(found)
    assert not refusing


def test_nothing_leaves_whatever_a_library_tries(refusing):
    with foreign.nothing_leaves():
        for attempt in (
            lambda: socket.socket().connect(("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("localhost", 80),
        ):
            with pytest.raises((CheckpointError, OSError)):
                attempt()


def test_the_guard_refuses_and_lets_go_again():
    """With real sockets: inside nothing goes out, of other threads everything, and afterwards everything again."""
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        with foreign.nothing_leaves():
            with foreign.nothing_leaves(), pytest.raises(CheckpointError, match="local model"):
                socket.create_connection(listening.getsockname(), timeout=5)
            with pytest.raises(CheckpointError, match="local model"):
                socket.create_connection(listening.getsockname(), timeout=5)
        socket.create_connection(listening.getsockname(), timeout=5).close()


def test_an_adapter_is_not_followed_to_its_model(folder, refusing, tmp_path):
    path = folder(model_type="beit")
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/something"}')
    with pytest.raises(CheckpointError, match="adapter"):
        checkpoints.load(checkpoints.find(path))
    assert not refusing


OFFLINE = """
import socket
def refuse(*given, **named):
    raise SystemExit(f"asked for {given}")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse)
import faceparse_core, faceparse_core.cli
from faceparse_core import FaceParser
parsing = FaceParser("lite", "cpu", resolution=64).parse("samples/portrait.jpg", faces="image")
print(parsing.mask("hair").shape)
"""


def test_no_network_while_importing_loading_and_parsing():
    done = subprocess.run([sys.executable, "-c", OFFLINE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "512" in done.stdout, done.stderr


# ---------------------------------------------------------------------------------------------- checkpoints that lie


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "beit", "num_hidden_layers": 10**9}, {"model_type": "beit", "hidden_size": 10**9},
        {"model_type": "segformer", "depths": [10**9, 1, 1, 1]}, {"model_type": ["beit"]}, {"model_type": {}},
        {"model_type": "beit", "layer_norm_eps": "small", "hidden_act": 7}, {"model_type": "segformer"},
        {"model_type": "upernet", "backbone_config": {"model_type": "swin", "depths": [10**6] * 4}},
    ],
)  # fmt: skip
def test_configs_that_lie(folder, config):
    with pytest.raises(CheckpointError):
        checkpoints.load(checkpoints.find(folder(**config)))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
def test_json_nested_without_end(folder, file):
    path = folder(model_type="segformer")
    if "index" in file:
        (path / "model.safetensors").unlink()
    (path / file).write_text('{"a":' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(CheckpointError, match="nested"):
        checkpoints.find(path)


@pytest.mark.parametrize("key", ["config", "labels"])
def test_metadata_nested_without_end(tmp_path, key):
    metadata = {"architecture": "lite", "config": "{}", "labels": json.dumps(list(NAMES.values()))}
    metadata[key] = "[" * 100_000 + "]" * 100_000
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError):
        checkpoints.load(checkpoints.find(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("config", ["[]", "7", '{"width": 1e99}', '{"width": 100000000000000}', '{"depth": 1}'])
def test_metadata_that_is_no_config(tmp_path, config):
    for architecture in ("lite", "segformer"):
        metadata = {"architecture": architecture, "config": config}
        save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
        with pytest.raises(CheckpointError):
            checkpoints.load(checkpoints.find(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    "text",
    [
        '{"size": Infinity}', '{"size": 1e9}', '{"size": NaN}', '{"size": [512]}', '{"size": 1e400}',
        '{"size": {"height": -Infinity, "width": 5}}', '{"image_mean": [NaN, 0, 0]}',
        '{"image_mean": [0, 0, 0], "image_std": [NaN, 1, 1]}', '{"image_mean": [1e300, 0, 0]}',
        '{"image_mean": [0, 0, 0], "image_std": [1e-30, 1, 1]}', '{"image_mean": "abc"}', '{"rescale_factor": NaN}',
        '{"image_mean": [0, 0, 0], "rescale_factor": Infinity}', '{"size": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_preprocessing_that_lies(folder, text):
    """A mean that is no number gave masks of NaN in silence."""
    path = folder(model_type="segformer")
    (path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        checkpoints.find(path)


@pytest.mark.parametrize("resolution", ["1000000000", "9" * 6000, "0", "-5", "", "٣٢", "512.0"])
def test_a_resolution_that_lies(tmp_path, resolution):
    metadata = {"architecture": "lite", "config": "{}", "resolution": resolution}
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError, match="resolution must be"):
        checkpoints.find(tmp_path / "x.safetensors")


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="pipes"):
        checkpoints.find(tmp_path / "x.safetensors")


def test_a_path_that_no_file_can_have():
    with pytest.raises(FileNotFoundError):
        checkpoints.find("/" + "x" * 5000)


def onnx(file: Path, value: float = 0.0, shape=("b", 3, "h", "w"), channels: int = 19) -> Path:
    """A graph of one convolution that shrinks pictures four times."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((channels, 3, 4, 4), value, np.float32), "weight")
    node = helper.make_node("Conv", ["pixel_values", "weight"], ["logits"], strides=[4, 4])
    graph = helper.make_graph(
        [node], "flat", [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("b", 19, "i", "j"))], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def test_onnx_whose_weights_are_no_numbers(tmp_path):
    picture = torch.rand(1, 64, 64, 3)
    good = FaceParser(onnx(tmp_path / "good.onnx"), resolution=64).parse(picture, faces="image")
    assert good.mask("background").all()
    for value in (float("nan"), float("inf"), 3e38):
        bad = FaceParser(onnx(tmp_path / f"{value}.onnx", value), resolution=64)
        with pytest.raises(CheckpointError, match="no numbers"):
            bad.parse(picture, faces="image")


def test_onnx_that_cannot_be_run(tmp_path):
    pytest.importorskip("onnxruntime")
    file = onnx(tmp_path / "x.onnx", channels=7)
    with pytest.raises((CheckpointError, ValueError), match="labels"):  # where it is noticed depends on the version
        OnnxModel(file, range(19))(torch.zeros(1, 3, 64, 64))
    (tmp_path / "y.onnx").write_bytes(file.read_bytes()[:-40])
    for broken in ("y.onnx", "missing.onnx"):
        with pytest.raises(CheckpointError, match="cannot read"):
            OnnxModel(tmp_path / broken, range(19))
    small = OnnxModel(onnx(tmp_path / "z.onnx"), range(19))
    with pytest.raises(CheckpointError, match="onnxruntime cannot run"):
        small(torch.zeros(1, 3, 2, 2))  # smaller than its kernel


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_gives_no_numbers(value):
    with pytest.raises(CheckpointError, match="no numbers"):
        parser(Flat(value)).parse(torch.rand(1, 40, 50, 3), faces="image")


def test_too_little_memory_is_told(monkeypatch):
    def full(pixels):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    network = Flat()
    network.forward = full
    with pytest.raises(MemoryError, match="smaller picture"):
        parser(network).parse(torch.rand(1, 40, 50, 3), faces="image")
    monkeypatch.setattr(images, "load", full)
    with pytest.raises(MemoryError, match="the pictures cannot be parsed: there is not enough memory"):
        parser().parse(torch.rand(1, 40, 50, 3))


def test_what_is_trained_does_not_depend_on_its_file_any_more(tmp_path):
    """It used to be mapped: a file that became shorter killed the process (SIGBUS)."""
    from faceparse_core.models.lite import Lite

    torch.manual_seed(0)
    path = checkpoints.save(Lite(), tmp_path / "x.safetensors", dtype=torch.float32)
    network = checkpoints.load(checkpoints.find(path), trainable=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# ---------------------------------------------------------------------------------------------- downloads that lie

FILE = RemoteFile("model.safetensors", 5, "0" * 64)


class Answering:
    """What urllib gives for an answer."""

    status = 200

    def __init__(self, data: bytes, **headers: str):
        self.data, self.headers = [data, b""], {key.replace("_", "-"): value for key, value in headers.items()}

    def read1(self, size):
        return self.data.pop(0)

    def __enter__(self):
        return self

    def __exit__(self, *given):
        return None


@pytest.mark.parametrize("length", ["abc", "-5", "", "5.0", "٥", "9" * 5000])
def test_a_content_length_that_is_no_number(tmp_path, monkeypatch, length):
    monkeypatch.setattr(downloads, "_open", lambda url, start: Answering(b"12345", Content_Length=length))
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    with pytest.raises(CheckpointError, match="Content-Length"):
        fetch(Server("http://127.0.0.1:9/x"), FILE, tmp_path, lambda here: None)
    assert not any(tmp_path.iterdir())


def test_a_part_that_is_a_folder_or_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_open", lambda url, start: Answering(b"12345"))
    part = tmp_path / f"{FILE.name}.{FILE.sha256[:8]}.part"
    part.mkdir()
    with pytest.raises(CheckpointError, match="take it away"):
        fetch(Server("http://127.0.0.1:9/x"), FILE, tmp_path, lambda here: None)
    part.rmdir()
    mine = tmp_path / "mine"
    mine.write_text("my own")
    part.symlink_to(mine)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        fetch(Server("http://127.0.0.1:9/x"), FILE, tmp_path, lambda here: None)
    assert mine.read_text() == "my own"


# ---------------------------------------------------------------------------------------------- pictures and arguments


def damaged(kind: str) -> Image.Image:
    picture = Image.new("RGB", (20, 10), (200, 100, 50))
    if kind == "closed":
        picture.close()
    elif kind == "half":
        import io

        file = io.BytesIO()
        Image.effect_noise((200, 200), 50).save(file, "JPEG")
        picture = Image.open(io.BytesIO(file.getvalue()[:800]))
    elif kind == "hollow":
        picture = Image.Image()
        picture._size, picture._mode = (4, 4), "RGB"
    return picture


@pytest.mark.parametrize("kind", ["closed", "half", "hollow"])
def test_damaged_pil_images(kind):
    with pytest.raises(ValueError, match="PIL image"):
        images.load(damaged(kind))


def test_a_single_value_is_no_picture():
    for dtype in (np.uint8, np.uint16, np.float32):
        with pytest.raises(ValueError, match="0 dimensions"):
            images.load(np.zeros((), dtype))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(4, 4, 3, device="meta"), torch.rand(4, 4, 3).to_sparse(),
        torch.rand(4, 4, 3).to(torch.complex64),
    ],
)  # fmt: skip
def test_tensors_that_hold_no_picture(tensor):
    with pytest.raises(ValueError, match="the image is"):
        images.load(tensor)


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="pipes and devices"):
        images.load(tmp_path / "pipe.jpg")
    with pytest.raises(FileNotFoundError):
        images.load("x" * 5000)
    with pytest.raises(FileNotFoundError):
        images.load("a\0b.jpg")
    with pytest.raises(ValueError, match="folder"):
        images.load("")


@pytest.mark.parametrize(
    "options",
    [
        {"track": 5}, {"track": "yes"}, {"track": Tracker}, {"batch_size": "2"}, {"batch_size": 0}, {"batch_size": 1.5},
        {"smallest": None}, {"smallest": float("nan")}, {"order": []}, {"order": None}, {"faces": None}, {"faces": 5},
        {"faces": {"x": 1}}, {"faces": [[None]]}, {"faces": np.zeros((1, 4))},
    ],
)  # fmt: skip
def test_arguments_of_parse(options):
    with pytest.raises(ValueError):
        parser().parse(torch.rand(1, 40, 50, 3), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 10**9}, {"resolution": 0}, {"resolution": True}, {"resolution": "512"}, {"resolution": 500},
        {"fit": None}, {"fit": []},
    ],
)  # fmt: skip
def test_arguments_of_the_parser(options):
    with pytest.raises(ValueError):
        parser(**options)


@pytest.mark.parametrize("given", [{"device": None}, {"device": "cuda:x"}, {"precision": None}, {"precision": []}])
def test_devices_and_precisions_that_are_none(given):
    with pytest.raises(ValueError):
        FaceParser("lite", **given)


@pytest.mark.parametrize("model", ["", None, 5, b"lite", ["lite"]])
def test_models_that_are_none(model):
    with pytest.raises(ValueError):
        FaceParser(model)


@pytest.mark.parametrize("opacity", ["x", None, float("nan"), 2])
def test_arguments_of_a_parsing(opacity):
    picture = torch.rand(1, 40, 50, 3)
    parsing = parser().parse(picture, faces="image")
    assert isinstance(parsing, Parsing)
    with pytest.raises(ValueError):
        parsing.overlay(picture, opacity=opacity)
    for face in ("x", None, -1, 1.5):
        with pytest.raises(ValueError):
            parsing.mask("hair", face=face)
    for region in (None, 5, "", "hair +", "\0", "hair" + " - hair"):
        with pytest.raises(ValueError):
            parsing.mask(region)


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_does_not_hang():
    """torch's threads are not in the child, which would wait for them for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        picture = torch.rand(1, 256, 256, 3)
        here = parser().parse(picture, faces="image").mask("background", soft=True)
        a = torch.rand(400, 400)
        assert (a @ a).isfinite().all()
        child = os.fork()
        if not child:
            same = (a @ a).exp().isfinite().any() and parser().parse(picture, faces="image").labels.shape == here.shape
            os._exit(0 if same and torch.get_num_threads() == 1 else 3)
        deadline, ended = time.monotonic() + 60, (0, 0)
        while ended[0] == 0 and time.monotonic() < deadline:
            ended = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended == (child, 0)
    finally:
        torch.set_num_threads(threads)
