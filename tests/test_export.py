"""Exported ONNX files, and ONNX files as models: the same parsing comes out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from faceparse_core import CheckpointError, FaceParser, checkpoints
from faceparse_core.checkpoints.table import BUNDLED_FILE
from faceparse_core.cli import main
from faceparse_core.faces import WEIGHTS, Finder
from faceparse_core.labels import LABELS
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.segformer import SegFormer, SegFormerConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from faceparse_core.export import export_finder, exporting, graphs  # noqa: E402 (these modules need the extras)
from faceparse_core.models import onnx as runtime  # noqa: E402

NAMES = [label.name for label in LABELS]
TINY = SegFormerConfig((1, 1, 2, 1), (8, 16, 24, 32), 16, (1, 2, 3, 4))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundled model in all precisions, and what the export said of it."""
    folder = tmp_path_factory.mktemp("export") / "lite"
    return folder, exporting.export("lite", folder)


@pytest.fixture(scope="module")
def segformer():
    return with_random_weights(SegFormer(TINY))


def with_random_weights(network):
    """Nothing is left at a value that hides a mistake: norms, biases and running figures are random, too."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            spread = max(1, tensor[0].numel()) ** -0.5 if tensor.ndim > 1 else 0.3
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
            if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
                tensor.abs_().add_(0.5)
    return network.eval()


class OnlyLogits(torch.nn.Module):
    """A model of transformers as its exporter to ONNX shows it to torch."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return self.network(pixel_values).logits


def run(file, pixels):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixels.numpy()})[0]


def equal(a, b):
    return (a == b).float().mean().item()


def initializer(file, name):
    return next(onnx.numpy_helper.to_array(w) for w in onnx.load(file).graph.initializer if w.name == name)


# -------------------------------------------------------------------------------------------- the graphs


@pytest.mark.parametrize("architecture", ["lite", "lite with blocks", "segformer"])
@pytest.mark.parametrize("resolution", [None, 64])
def test_the_graph_computes_the_network(architecture, resolution, segformer, tmp_path):
    blocks = (1, 0, 2, 4) if architecture == "lite with blocks" else ()
    network = segformer if architecture == "segformer" else with_random_weights(Lite(LiteConfig(blocks=blocks)))
    file = tmp_path / "model.onnx"
    graphs.build(network, resolution).write(file)
    for shape in [(2, 3, 64, 64)] if resolution else [(2, 3, 32, 96), (1, 3, 128, 64)]:
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = network(pixels).numpy()
        logits = run(file, pixels)
        assert logits.shape == expected.shape
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_graph_is_what_runtimes_expect(exported, segformer, tmp_path):
    graphs.build(segformer).write(tmp_path / "model.onnx")
    for file in (tmp_path / "model.onnx", *(exported[0] / "onnx").glob("*.onnx")):
        model = onnx.load(file)
        onnx.checker.check_model(model, full_check=True)
        assert [(opset.domain, opset.version >= 17) for opset in model.opset_import] == [("", True)]
        (given,), (result,) = model.graph.input, model.graph.output
        assert (given.name, result.name) == ("pixel_values", "logits")
        for value, channels in ((given, 3), (result, 19)):
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            batch, middle, *sides = value.type.tensor_type.shape.dim
            assert batch.dim_param and middle.dim_value == channels and all(side.dim_param for side in sides)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in segformer.modules())
    assert kinds.count("LayerNormalization") == norms
    assert not {"ReduceMean", "Pow", "Identity", "Constant"} & set(kinds)


def test_half_precision_leaves_norms_and_sums_in_float32(segformer, tmp_path):
    file = tmp_path / "half.onnx"
    graphs.halved(graphs.build(segformer)).write(file)
    model = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" or node.name.endswith(".residual") or node.op_type == "Resize":
            assert kinds[node.output[0]] == full, node.name
        if node.op_type == "Resize":
            scales = next(weight for weight in model.graph.initializer if weight.name == node.input[2])
            assert scales.data_type == full
        if node.op_type in ("MatMul", "Softmax") or (node.op_type == "Conv" and node.output[0] != "logits"):
            assert kinds[node.output[0]] == half, node.name
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = segformer(pixels).numpy()
    assert np.abs(run(file, pixels) - expected).max() < 0.01 * np.abs(expected).max()


def test_what_overflows_half_precision_stays_in_float32(tmp_path):
    network = with_random_weights(SegFormer(TINY))
    mlp = network.stages[1].blocks[0].mlp
    with torch.no_grad():  # the same function, by way of numbers beyond 65504
        mlp.depthwise.weight *= 1e6
        mlp.depthwise.bias.fill_(1e6)
        mlp.project.weight *= 1e-6
    folder = checkpoints.save(network, tmp_path / "big", dtype=torch.float32)
    trial = exporting._Trial(checkpoints.find(folder), None, exporting._check_pictures(None))
    large = trial.large_tensors(tmp_path / "peaks.onnx")
    assert "stages.1.blocks.0.mlp.depthwise" in large and "stages.1.blocks.0.mlp.gelu" in large
    assert not any(name.startswith(("stages.0", "stages.2", "stages.3", "head")) for name in large)
    file, pixels = tmp_path / "half.onnx", torch.randn(1, 3, 64, 64)
    graphs.halved(graphs.build(network), large).write(file)
    with torch.inference_mode():
        expected = network(pixels).numpy()
    assert np.abs(run(file, pixels) - expected).max() < 0.02 * np.abs(expected).max()
    nodes = {node.name: list(node.input) for node in onnx.load(file).graph.node}
    assert "stages.1.blocks.0.mlp.depthwise.weight" in nodes["stages.1.blocks.0.mlp.depthwise"]
    assert "stages.0.blocks.0.mlp.depthwise.weight half" in nodes["stages.0.blocks.0.mlp.depthwise"]


def test_small_weights_are_within_half_a_step(tmp_path):
    network = with_random_weights(Lite())
    file = tmp_path / "small.onnx"
    graphs.with_small_weights(graphs.build(network)).write(file)
    assert file.stat().st_size < sum(p.numel() for p in network.parameters()) * 1.5
    stored = initializer(file, "stages.6.0.expand.weight.int8")
    scales = initializer(file, "stages.6.0.expand.weight.scales")
    block = network.stages[6][0].expand
    exact = torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.norm).weight.detach().numpy()
    assert stored.dtype == np.int8 and scales.shape == (len(exact), 1, 1, 1)
    assert (np.abs(stored * scales - exact) <= 0.5001 * scales).all()
    assert initializer(file, "classifier.weight").dtype == np.float32


def test_only_trainable_networks_become_graphs():
    with pytest.raises(ValueError, match="trainable"):
        graphs.build(Lite().eval().fold())
    with pytest.raises(ValueError, match="Linear"):
        graphs.build(torch.nn.Linear(1, 1))


# -------------------------------------------------------------------------------------------- the export


def test_the_folder_is_laid_out_for_transformers_js(exported):
    folder, results = exported
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md", "config.json", "onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx",
        "preprocessor_config.json",
    ]  # fmt: skip
    assert not list(folder.parent.glob(".*"))
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "segformer" and config["architectures"] == ["SegformerForSemanticSegmentation"]
    assert [config["id2label"][str(index)] for index in range(19)] == NAMES
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["image_processor_type"] == "SegformerImageProcessor"
    assert preprocessor["size"] == {"height": 512, "width": 512} and preprocessor["image_mean"] == [0.485, 0.456, 0.406]
    card = (folder / "README.md").read_text()
    assert all(result.file in card for result in results) and "non-commercial" in card


def test_every_precision_is_small_and_keeps_the_labels(exported):
    folder, results = exported
    weights = sum(tensor.numel() for tensor in load_file(BUNDLED_FILE).values())
    bars = {"fp32": (4.2 * weights, 0.9999), "fp16": (10e6, 0.998), "int8": (5e6, 0.985)}
    assert [result.precision for result in results] == list(bars)
    for result in results:
        size, agreement = bars[result.precision]
        assert (folder / result.file).stat().st_size == result.size <= size
        assert result.passed and agreement <= result.agreement <= 1 and result.worst <= result.agreement


def test_a_segformer_is_exported_too(segformer, tmp_path):
    source = checkpoints.save(segformer, tmp_path / "tiny", dtype=torch.float32)
    (result,) = exporting.export(source, tmp_path / "out", ("fp32",))
    assert result.passed
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["hidden_sizes"] == list(TINY.hidden_sizes) and len(config["id2label"]) == 19


def test_what_fails_the_check_is_not_written(tmp_path, monkeypatch, capsys, portrait):
    def ruined(graph):
        graph.weights["classifier.direct.bias"] = graph.weights["classifier.direct.bias"]._replace(
            make=lambda: np.arange(19, dtype=np.float32)
        )
        return graph

    monkeypatch.setattr(graphs, "with_small_weights", ruined)
    out = tmp_path / "out"
    assert main(["export", "lite", "--out", str(out), "--precision", "int8", "--check", str(portrait)]) == 1
    assert list(tmp_path.iterdir()) == []
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and "int8 failed the check" in captured.err
    results = exporting.export("lite", out, ("fp16", "int8"))
    assert [result.passed for result in results] == [True, False]
    assert not (out / "onnx/model_quantized.onnx").exists() and (out / "onnx/model_fp16.onnx").exists()
    assert "model_quantized" not in (out / "README.md").read_text()


def test_an_interrupted_export_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting._Trial, "run", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        exporting.export("lite", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_export_replaces_the_first(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "lite", "--out", str(out), "--precision", "int8"]) == 0
    (out / "mine.txt").write_text("kept")
    assert main(["export", "lite", "--out", str(out), "--precision", "fp16", "--resolution", "256"]) == 0
    assert [file.name for file in (out / "onnx").iterdir()] == ["model_fp16.onnx"]
    assert (out / "mine.txt").exists() and json.loads((out / "preprocessor_config.json").read_text())["size"] == {
        "height": 256,
        "width": 256,
    }
    assert "written" in capsys.readouterr().out


def test_other_peoples_folders_stay_as_they_are(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["export", "lite", "--out", str(tmp_path)]) == 1
    assert "other things than an earlier export" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_pictures_to_check_with(exported, tmp_path, portrait):
    # Not the samples' own folder: who has parsed one finds the results beside it.
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in portrait.parent.glob("*.jpg"):
        shutil.copy(picture, folder)
    assert len(exporting._check_pictures(folder)) == 2 + len(list(folder.glob("*.jpg")))
    with pytest.raises(FileNotFoundError, match="no pictures"):
        exporting.export("lite", tmp_path / "out", check=tmp_path)


@pytest.mark.parametrize("option", [["--resolution", "500"], ["--precision", "fp8"], ["--resolution", "big"]])
def test_wrong_options(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "lite", "--out", str(tmp_path / "out"), *option])
    assert option[1] in capsys.readouterr().err


def test_an_onnx_file_is_neither_exported_nor_trained(exported, tmp_path):
    with pytest.raises(ValueError, match="ONNX file already"):
        exporting.export(exported[0], tmp_path / "out")
    with pytest.raises(ValueError, match="cannot be trained"):
        checkpoints.load(checkpoints.find(exported[0]), trainable=True)


def test_the_snippet_of_the_card_runs(exported, portrait, monkeypatch):
    folder, _ = exported
    snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    (folder / "portrait.jpg").write_bytes(portrait.read_bytes())
    try:
        found = {}
        exec(snippet, found)
    finally:
        (folder / "portrait.jpg").unlink()
    expected = FaceParser("lite", "cpu", "fp32", fit="stretch").parse(portrait, faces="image").labels[0]
    assert equal(torch.from_numpy(found["labels"]), expected) > 0.999


# -------------------------------------------------------------------------------------------- ONNX files as models


@pytest.mark.parametrize("file, agreement", [("", 0.9999), ("model.onnx", 0.9999), ("model_fp16.onnx", 0.998)])
def test_the_same_parsing_comes_out(exported, portrait, file, agreement):
    pictures = [portrait, np.array(Image.open(portrait).resize((300, 200)))]
    path = exported[0] / "onnx" / file if file else exported[0]
    parsing = FaceParser(str(path)).parse(pictures)
    expected = FaceParser("lite", "cpu", "fp32").parse(pictures)
    for one, other in zip(parsing, expected, strict=True):
        assert equal(one.labels, other.labels) >= agreement
        assert (one.mask("hair", soft=True) - other.mask("hair", soft=True)).abs().mean() < 0.002
        assert len(one.faces[0]) == len(other.faces[0])


def test_on_the_command_line(exported, portrait, tmp_path, capsys):
    assert main([str(portrait), "--model", str(exported[0]), "--region", "hair", "-o", str(tmp_path / "hair.png")]) == 0
    assert np.array(Image.open(tmp_path / "hair.png")).mean() > 5
    assert capsys.readouterr().out.startswith("lite/model.onnx on cpu")


def test_the_published_file_runs(tmp_path, portrait):
    """As it was exported from transformers: its names, its open axes, its config above it, labels by its config."""
    transformers = pytest.importorskip("transformers")
    shuffled = NAMES[::-1]
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, num_attention_heads=[1, 2, 3, 4],
        id2label=dict(enumerate(shuffled)), label2id={name: index for index, name in enumerate(shuffled)},
    )  # fmt: skip
    network = with_random_weights(transformers.SegformerForSemanticSegmentation(config))
    network.save_pretrained(tmp_path)
    expected = FaceParser(tmp_path, "cpu", "fp32").parse(portrait).labels
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "onnx").mkdir()
    axes = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
    torch.onnx.export(
        OnlyLogits(network), (torch.randn(1, 3, 64, 64),), tmp_path / "onnx" / "model.onnx", dynamo=False,
        opset_version=17,
        input_names=["pixel_values"], output_names=["logits"],
        dynamic_axes={"pixel_values": axes, "logits": {**axes, 1: "num_labels"}},
    )  # fmt: skip
    for model in (tmp_path, tmp_path / "onnx" / "model.onnx"):
        assert equal(FaceParser(model).parse(portrait).labels, expected) > 0.9999


def test_a_file_of_one_size(exported, portrait, tmp_path):
    exporting.export("lite", tmp_path / "fixed", ("fp32",), resolution=256)
    wide = np.array(Image.open(portrait).resize((400, 200)))
    parser = FaceParser(tmp_path / "fixed")
    assert parser.resolution == 256
    expected = FaceParser("lite", "cpu", "fp32", resolution=256, fit="stretch").parse(wide)
    assert equal(parser.parse([wide, wide]).labels[1], expected.labels[0]) > 0.9999
    padded = FaceParser(tmp_path / "fixed", fit="pad").parse(wide)
    assert padded.labels.shape == (1, 200, 400) and padded.windows[0].height == pytest.approx(400)
    with pytest.raises(ValueError, match="256x256 alone, not 512"):
        FaceParser(tmp_path / "fixed", resolution=512)


def test_its_precision_is_the_files_own(exported):
    assert FaceParser(exported[0], precision="fp32").precision == "fp32"
    with pytest.raises(ValueError, match="precision that it was written in"):
        FaceParser(exported[0], precision="bf16")


def test_a_folder_with_several_files_and_no_model_onnx(exported, tmp_path):
    for name in ("model_fp16.onnx", "model_quantized.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="several models .model_fp16.onnx, model_quantized.onnx."):
        checkpoints.find(tmp_path)
    (tmp_path / "model_quantized.onnx").unlink()
    assert checkpoints.find(tmp_path).path.name == "model_fp16.onnx"


def test_damaged_and_foreign_files(exported, tmp_path):
    whole = (exported[0] / "onnx" / "model_quantized.onnx").read_bytes()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot read .*damaged.onnx"):
        FaceParser(damaged)
    graph = graphs.build(with_random_weights(SegFormer(SegFormerConfig((1,) * 4, (8,) * 4, 8, (1,) * 4, num_labels=5))))
    graph.write(tmp_path / "five.onnx")
    with pytest.raises(CheckpointError, match="maps of 19 labels"):
        FaceParser(tmp_path / "five.onnx")
    with pytest.raises(FileNotFoundError):
        FaceParser("nowhere.onnx")


def test_devices_are_those_of_onnxruntime(exported, monkeypatch):
    assert FaceParser(exported[0]).device.type == "cpu"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="cannot use device 'cuda:0' here, but cpu; install onnxruntime-gpu"):
        runtime._provider(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.choose_device("auto") == "cpu" and runtime.choose_device("cuda") == "cuda"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert runtime.choose_device("auto") == "cuda"


def test_without_the_extras_the_error_says_what_to_install(exported, tmp_path):
    """And nothing of ONNX is loaded unless an ONNX file is."""
    code = f"""
import sys
sys.modules["onnxruntime"] = sys.modules["onnx"] = None
import faceparse_core
from faceparse_core.export import export
from faceparse_core import FaceParser
for act in (lambda: FaceParser({str(exported[0])!r}), lambda: export("lite", {str(tmp_path / "out")!r})):
    try:
        act()
    except (faceparse_core.CheckpointError, ImportError) as error:
        print(error)
FaceParser("lite", device="cpu", precision="fp32")
del sys.modules["onnxruntime"], sys.modules["onnx"]
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"onnx", "onnxruntime", "transformers"}}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, loaded = run.stdout.strip().splitlines()
    assert "pip install onnxruntime" in first and 'pip install "faceparse[export]"' in second
    assert loaded == "[]"


def test_the_finder_is_exported(tmp_path, capsys):
    assert main(["export", "finder", "--out", str(tmp_path / "finder")]) == 0
    assert json.loads((tmp_path / "finder/config.json").read_text())["model_type"] == "custom"
    session = onnxruntime.InferenceSession(str(tmp_path / "finder/onnx/model.onnx"), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    network = Finder.of(WEIGHTS, torch.device("cpu"), "fp32").network
    ours = network(torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)).numpy()
    assert np.abs(session.run(None, {"pixel_values": pixels})[0] - ours).max() < 2e-3
    assert "float32" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other things"):
        export_finder(tmp_path / "mine")
