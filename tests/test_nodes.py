"""The ComfyUI nodes without ComfyUI: over a stand-in for the little of it that they use."""

from __future__ import annotations

import copy
import gc
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceparse_core import checkpoints, devices, rendering
from faceparse_core import images as pictures
from faceparse_core import parser as engine
from faceparse_core.checkpoints import finding, table
from faceparse_core.labels import _REGION_KEYS as REGION_KEYS
from faceparse_core.labels import DRAWN, DRAWN_GROUPS, GROUPS, LABELS
from faceparse_core.parsing import NO_FACE, Parsing

ROOT = Path(__file__).parents[1]
STANDIN = ROOT / "tests" / "comfy_standin"

IDS = {
    "FaceParseParseFace": "ParseFace",
    "FaceParseSelectLabels": "SelectLabels",
    "FaceParseMaskCombine": "MaskCombine",
    "FaceParseMaskFeather": "MaskFeather",
    "FaceParseRefineMask": "RefineMask",
    "FaceParseCutOut": "CutOut",
    "FaceParsePreviewParsing": "PreviewParsing",
    "FaceParseParsingInfo": "ParsingInfo",
    "FaceParseCropFaces": "CropFaces",
    "FaceParsePasteFaces": "PasteFaces",
    "FaceParseRecolour": "Recolour",
    "FaceParseMakeUp": "MakeUp",
    "FaceParseSmoothSkin": "SmoothSkin",
    "FaceParseBackground": "Background",
    "FaceParseFacePrivacy": "FacePrivacy",
    "FaceParseTryOn": "TryOn",
    "FaceParseFaceFigures": "FaceFigures",
    "FaceParseSamplePortrait": "SamplePortrait",
}


# ---------------------------------------------------------------------------------------------- the pack


def test_the_pack_has_its_nodes_with_help_and_words_to_find_them(pack):
    assert {name: node.__name__ for name, node in pack.nodes.items()} == IDS
    web = ROOT / pack.module.WEB_DIRECTORY
    for name, node in pack.nodes.items():
        schema = node.define_schema()
        assert schema.category == "image/mask/face parsing" and schema.description and len(schema.search_aliases) >= 4
        assert (web / "docs" / f"{name}.md").read_text().startswith(f"# {schema.display_name}\n")
        for socket in schema.inputs:
            assert socket.tooltip, f"{name}.{socket.id}"


def test_comfyui_runs_the_scripts_of_the_menu_in_its_editor_and_no_other(pack):
    web = ROOT / pack.module.WEB_DIRECTORY
    assert sorted(path.name for path in web.rglob("*.js")) == ["labels.js", "menu.js"]
    # Nothing comes from another host.
    assert not [path.name for path in web.rglob("*.js") if "://" in path.read_text(encoding="utf-8")]


def test_the_editor_knows_the_labels_of_the_engine(pack):
    known = json.loads((ROOT / pack.module.WEB_DIRECTORY / "labels.json").read_text(encoding="utf-8"))
    assert known["labels"] == [{"title": label.title, "colour": list(label.colour)} for label in LABELS]
    names = {name: [part for part in parts if isinstance(part, int)] for name, parts in REGION_KEYS.items()}
    assert known["names"] == names


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_help_pages_tell_of_every_input_and_output(pack, page):
    for name, node in pack.nodes.items():
        text = (ROOT / pack.module.WEB_DIRECTORY / "docs" / page.format(name)).read_text(encoding="utf-8")
        schema = node.define_schema()
        for socket in [*schema.inputs, *schema.outputs]:
            assert f"**{socket.id}**" in text, f"{name}.{socket.id}"


LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "es", "de", "ru", "pt-BR")


def words(language: str) -> dict[str, str]:
    """The translations of a language: "FaceParseCutOut/inputs/mask/tooltip" and so on -> text."""

    def flat(part, path):
        if isinstance(part, str):
            return {path: part}
        return {key: text for name, one in part.items() for key, text in flat(one, f"{path}/{name}").items()}

    return flat(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")), "")


def test_the_english_that_was_translated_is_what_the_nodes_say(pack):
    """Who changes a tooltip changes it in every language, and then in locales/en."""
    said = {}
    for name, node in pack.nodes.items():
        schema = node.define_schema()
        said[f"/{name}/display_name"], said[f"/{name}/description"] = schema.display_name, schema.description
        outputs = [(str(number), socket) for number, socket in enumerate(schema.outputs)]
        for kind, sockets in (("inputs", [(socket.id, socket) for socket in schema.inputs]), ("outputs", outputs)):
            for key, socket in sockets:
                said[f"/{name}/{kind}/{key}/name"] = socket.id
                if socket.tooltip:
                    said[f"/{name}/{kind}/{key}/tooltip"] = socket.tooltip
    assert words("en") == said


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_all_words(language):
    english, translated = words("en"), words(language)
    assert translated.keys() == english.keys()
    assert {path.name for path in (ROOT / "locales").iterdir()} == {"en", *LANGUAGES}
    for key, text in translated.items():
        assert text.strip(), key
        if key.endswith(("tooltip", "description")):
            assert text != english[key], f"{key} is not translated"
            # What is typed or chosen stays as it is, whatever the language.
            for word in re.findall(
                r"\b(?:fp32|segformer-b5|lite|models/face_parsing|pip install pymatting)\b", english[key]
            ):
                assert word in text, f"{key}: {word}"


def test_what_is_selected_is_one_line_of_text(pack):
    """As every node of ComfyUI's own has it: what it shows in all of its editors, and what an API graph holds."""
    inputs = {i.id: i for i in pack.nodes["FaceParseSelectLabels"].define_schema().inputs}
    assert list(inputs) == ["parsing", "labels", "soft", "face"]
    assert inputs["labels"].default == "face"
    for name in (*GROUPS, *DRAWN_GROUPS, *DRAWN):
        spoken = name.replace("_", " ").removeprefix("left ").removeprefix("right ")
        assert spoken in inputs["labels"].tooltip, name


def test_a_wrong_name_is_refused_when_the_graph_is_queued(pack):
    for name, given in (("SelectLabels", "labels"), ("CropFaces", "region"), ("ParsingInfo", "region")):
        valid = pack.nodes["FaceParse" + name].validate_inputs
        assert valid(**{given: "face - eyes"}) is True
        assert valid(**{given: None}) is True, "it comes over a link, and is known only in the run"
        assert "did you mean 'hair'" in valid(**{given: "hiar"})
        assert "is empty" in valid(**{given: " "})


def test_choices_are_those_of_the_engine(pack):
    inputs = {i.id: i for i in pack.nodes["FaceParseParseFace"].define_schema().inputs}
    assert inputs["precision"].options == ["auto", *devices.PRECISIONS]
    assert inputs["on_no_face"].options == list(NO_FACE) and inputs["on_no_face"].default == "what is there"
    assert inputs["model"].options[:3] == ["auto", "segformer-b5", "lite"]
    assert [name for name, i in inputs.items() if i.advanced] == ["resolution", "precision", "batch_size"]


def test_model_folders_are_the_hosts(pack):
    import folder_paths

    folders = [str(pack.folder / "models" / "face_parsing"), str(pack.folder / "shared")]
    assert folder_paths.get_folder_paths("face_parsing") == folders
    assert [str(folder) for folder in finding._folders] == folders


def script(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs code with the stand-in on the path but not this repository; ``pack`` is what ComfyUI would have loaded."""
    start = (
        f"import asyncio, importlib.util, logging, sys\nsys.path.insert(0, {str(STANDIN)!r})\n"
        "logging.basicConfig(format='%(message)s', level='INFO')\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(folder / '__init__.py')!r})\n"
        "def load():\n"
        "    sys.modules['pack'] = pack = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(pack)\n"
        "    return pack\n"
        "def nodes():\n"
        "    extension = asyncio.run(load().comfy_entrypoint())\n"
        "    asyncio.run(extension.on_load())\n"
        "    return [node.define_schema().node_id for node in asyncio.run(extension.get_node_list())]\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", start + code], capture_output=True, text=True, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done


def test_nothing_heavy_is_imported_before_a_node_runs():
    done = script(
        "load(); assert not {'torch', 'numpy', 'comfy_api'} & set(sys.modules)\n"
        "nodes(); print(sorted({'transformers', 'scipy', 'huggingface_hub', 'matplotlib'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n"


def test_a_missing_dependency_is_told_in_the_log_and_the_nodes_are_there_all_the_same():
    done = script("sys.modules |= dict(scipy=None, safetensors=None, transformers=None)\nprint(*nodes())")
    assert done.stdout.split() == list(IDS)[:2] + list(IDS)[2:]
    assert "missing: safetensors, scipy, transformers" in done.stderr and "requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_engine_in_the_folder_goes_before_an_installed_one(tmp_path):
    (tmp_path / "faceparse_core").mkdir()
    (tmp_path / "faceparse_core" / "__init__.py").write_text("__version__ = '0.0.1'")
    installed = f"sys.path.insert(0, {str(tmp_path)!r})\n"
    done = script(installed + "load()._use_own_engine(); import faceparse_core; print(faceparse_core.__file__)")
    assert done.stdout.strip() == str(ROOT / "faceparse_core" / "__init__.py") and not done.stderr
    # One that is loaded already cannot be replaced; the log says so.
    done = script(installed + "import faceparse_core; load()._use_own_engine()")
    assert "0.0.1" in done.stderr and str(tmp_path) in done.stderr


# ---------------------------------------------------------------------------------------------- Parse Face


def test_parse_face_gives_parsing_mask_and_overlay_and_tells_the_model(run, image, parsing, caplog):
    with caplog.at_level(logging.INFO, "faceparse"):
        output = run("ParseFace", image=image)
    found, mask, overlay = output.args
    assert torch.equal(found.labels, parsing.labels)
    assert mask.shape == (1, 224, 224) and mask.dtype == torch.float32 and torch.equal(mask, parsing.mask("face"))
    assert overlay.shape == image.shape and overlay.dtype == torch.float32
    assert torch.equal(overlay, parsing.overlay(image))
    assert [shown["type"] for shown in output.ui["images"]] == ["temp"]
    assert output.ui["text"][0].startswith("lite · ") and run.texts == [("7", output.ui["text"][0])]
    assert "1 image with lite" in caplog.text


def test_a_big_picture_is_not_rendered_as_long_as_nobody_asks(run, image, monkeypatch):
    from faceparse_core import rendering

    sizes = []
    labels = rendering.labels
    monkeypatch.setattr(rendering, "labels", lambda *rest: sizes.append(max(rest[2])) or labels(*rest))
    run("ParseFace", image=image.repeat_interleave(10, 1).repeat_interleave(10, 2))
    assert max(sizes) <= 1024


def test_results_are_as_exact_as_the_host_keeps_them(run, image, parsing, monkeypatch):
    import comfy.model_management as memory

    monkeypatch.setattr(memory, "intermediate_dtype", lambda: torch.float16)
    parsed, mask, overlay = run("ParseFace", image=image.half()).args
    assert mask.dtype == overlay.dtype == torch.float16 and (mask * 1).dtype == (overlay * 1).dtype == torch.float16
    for name, inputs in (
        ("SelectLabels", dict(parsing=parsed)),
        ("MaskFeather", dict(mask=mask, feather=3)),
        ("RefineMask", dict(image=image.half(), mask=mask)),
        ("CutOut", dict(image=image.half(), mask=mask)),
        ("CropFaces", dict(image=image.half(), parsing=parsed)),
    ):
        assert run(name, **inputs).args[0].dtype == torch.float16, name


def test_outputs_that_nobody_looks_at_are_not_made(run, image, parsing, monkeypatch):
    _, mask, overlay = run("ParseFace", image=image).args
    made = []
    monkeypatch.setattr(Parsing, "overlay", lambda self, images: made.append("overlay") or torch.ones(1, 224, 224, 3))
    assert overlay.shape == (1, 224, 224, 3) and overlay.dtype == torch.float32 and overlay.device.type == "cpu"
    assert len(overlay) == 1 and overlay.numel() == 3 * 224 * 224 and isinstance(overlay, torch.Tensor) and not made
    # Whatever is done with it, it is done with the real one, which is made once.
    assert overlay[0, :2].sum() == 2 * 224 * 3 and made == ["overlay"]
    assert (255.0 * overlay.cpu().numpy()).min() == 255 and type(overlay.movedim(-1, 1)) is torch.Tensor
    assert torch.cat([overlay, overlay]).shape[0] == 2 and made == ["overlay"]
    overlay[0, 0, 0] = 0.5
    assert overlay[0, 0, 0, 0] == 0.5 and overlay[0, 0, 1, 0] == 1
    assert torch.equal(copy.deepcopy(mask), parsing.mask("face"))


def test_auto_says_on_the_node_that_it_fell_back(run, image):
    text = run("ParseFace", image=image, model="auto").ui["text"][0]
    assert text.startswith("lite") and "segformer-b5" in text


def test_the_network_is_loaded_once_and_goes_with_the_hosts_cache(run, pack, image, monkeypatch):
    loads = []
    load = checkpoints.load
    monkeypatch.setattr(checkpoints, "load", lambda checkpoint: loads.append(checkpoint.name) or load(checkpoint))
    pack.host._networks.clear()
    node = pack.nodes["FaceParseParseFace"]()  # as ComfyUI keeps one for each node of the graph
    other = pack.nodes["FaceParseParseFace"]()
    run("ParseFace", image=image)
    run("ParseFace", image=image, resolution=256)
    assert loads == ["lite"]
    del other
    gc.collect()
    assert pack.host._networks
    del node
    gc.collect()
    assert not pack.host._networks
    run("ParseFace", image=image)
    assert loads == ["lite", "lite"]


def test_the_host_makes_room_and_the_network_is_its_to_move(run, pack, image, monkeypatch):
    import comfy.model_management as memory

    asked = []
    monkeypatch.setattr(memory, "load_models_gpu", lambda models, **options: asked.append((models, options)))
    run("ParseFace", image=image.expand(3, -1, -1, -1), precision="bf16")
    (((patcher,), options),) = asked
    given = torch.bfloat16 if devices.has_native("bf16") else torch.float32
    assert next(patcher.model.parameters()).dtype == given
    assert options["memory_required"] > 2 * 512 * 512 * 400 and options["force_full_load"]


def test_a_long_batch_shows_progress_and_stops_at_the_hosts_interrupt(run, pack, image, monkeypatch):
    import comfy.model_management as memory

    frames = image.expand(5, -1, -1, -1)
    monkeypatch.setattr(pack.host, "_IMAGES_ON_GPU", 3)
    whole = run("ParseFace", image=frames, batch_size=2, resolution=128).args[0]
    assert list(dict.fromkeys(run.progress)) == [(0, 5), (2, 5), (3, 5), (5, 5)]
    assert len(whole) == len(whole.labels) == 5 and torch.equal(whole.labels[0], whole.labels[4])
    assert torch.equal(whole.mask("hair", soft=True)[1], whole.mask("hair", soft=True)[3])

    run.progress.clear()
    seen = []
    parse = engine.FaceParser._logits
    monkeypatch.setattr(
        engine.FaceParser,
        "_logits",
        lambda self, pixels: (seen.append(len(pixels)), memory.interrupt_current_processing(), parse(self, pixels))[2],
    )
    with pytest.raises(memory.InterruptProcessingException):
        run("ParseFace", image=frames, batch_size=2, resolution=128)
    assert seen == [2]


def test_frames_without_a_face(run, image, grey):
    frames = torch.cat([grey, image, grey])
    parsed = {rule: run("ParseFace", image=frames, on_no_face=rule, resolution=256).args for rule in NO_FACE[1:4]}
    for rule, (parsing, mask, _) in parsed.items():
        hair = run("SelectLabels", parsing=parsing, labels="hair", soft=True).args[0]
        there = [hair[0].mean().item(), hair[2].mean().item()]
        assert mask[1].any() and 0 < hair[1].mean() < 1
        if rule == "empty mask":
            assert not mask[0].any() and not mask[2].any() and there == [0, 0]
            assert run("SelectLabels", parsing=parsing, labels="background").args[0][0].all()
        elif rule == "whole image":
            assert mask[0].all() and mask[2].all() and there == [1, 1]
        else:
            assert not mask[0].any() and torch.equal(mask[2], mask[1]) and torch.equal(hair[2], hair[1])
    with pytest.raises(ValueError, match=r"images 0, 2 of 3"):
        run("ParseFace", image=frames, on_no_face="error", resolution=256)
    with pytest.raises(ValueError, match="no face in the image"):
        run("ParseFace", image=grey, on_no_face="error")


def test_pictures_with_alpha_and_bad_ones(run, image, parsing):
    with_alpha = torch.cat([image, torch.rand(1, 224, 224, 1)], dim=-1)
    parsed, mask, overlay = run("ParseFace", image=with_alpha).args
    assert torch.equal(parsed.labels, parsing.labels) and overlay.shape == image.shape
    parsed, mask, overlay = run("ParseFace", image=image[0]).args  # without its B
    assert mask.shape == (1, 224, 224) and overlay.shape == image.shape
    assert run("PreviewParsing", parsing=parsed, image=image[0], legend=False).args[0].shape == image.shape
    with pytest.raises(ValueError, match="empty"):
        run("ParseFace", image=image[:0])
    with pytest.raises(ValueError, match="NaN"):
        run("ParseFace", image=image * float("nan"))


def test_a_model_that_is_deleted_or_broken_is_told(run, pack, image):
    mine = pack.folder / "shared" / "mine.safetensors"
    mine.parent.mkdir(exist_ok=True)
    shutil.copy(table.BUNDLED_FILE, mine)
    assert "mine" in pack.host.model_names()
    assert run("ParseFace", image=image, model="mine").ui["text"][0].startswith("mine")
    mine.write_bytes(mine.read_bytes()[:1000])
    with pytest.raises(checkpoints.CheckpointError, match=r"mine\.safetensors"):
        run("ParseFace", image=image, model="mine")
    mine.unlink()
    with pytest.raises(ValueError, match="there is no model 'mine'"):
        run("ParseFace", image=image, model="mine")


def test_the_fingerprint_changes_with_the_files_and_only_then(pack):
    fingerprint = pack.nodes["FaceParseParseFace"].fingerprint_inputs
    mine = pack.folder / "shared" / "other.safetensors"
    mine.parent.mkdir(exist_ok=True)
    shutil.copy(table.BUNDLED_FILE, mine)
    before = fingerprint(model="other", image=None, resolution=512)
    assert fingerprint(model="other", image=None, resolution=256) == before
    mine.write_bytes(mine.read_bytes() + b" ")
    assert fingerprint(model="other") != before
    mine.unlink()
    assert fingerprint(model="auto") == fingerprint(model="auto") != fingerprint(model="lite")
    assert fingerprint(model=None, image=None) == fingerprint(image=None)  # the model comes over a link


def test_a_download_changes_no_fingerprint_but_new_weights_do(pack, run, image, monkeypatch):
    fingerprint = pack.nodes["FaceParseParseFace"].fingerprint_inputs
    there = pack.folder / "shared" / "fetched.safetensors"
    there.parent.mkdir(exist_ok=True)
    find = checkpoints.find

    def download(model, progress=None):
        if not there.exists():
            progress(10, 20)
            shutil.copy(table.BUNDLED_FILE, there)
            progress(20, 20)
        return find(model)

    monkeypatch.setattr(checkpoints, "find", download)
    before = fingerprint(model="fetched")
    run("ParseFace", image=image, model="fetched")
    assert run.progress[:2] == [(10, 20), (20, 20)]
    assert fingerprint(model="fetched") == before
    there.write_bytes(there.read_bytes() + b" ")
    assert fingerprint(model="fetched") != before
    there.unlink()


# ---------------------------------------------------------------------------------------------- the other nodes


def test_labels_are_selected_without_the_model(run, parsing, monkeypatch):
    monkeypatch.setattr(engine.FaceParser, "parse", None)
    for region in ("hair + hat", "face - eyes - upper lip", "mouth area", "viewer left eye", "cheeks + nose - t-zone"):
        for soft in (False, True):
            (mask,) = run("SelectLabels", parsing=parsing, labels=region, soft=soft).args
            assert mask.dtype == torch.float32 and torch.equal(mask, parsing.mask(region, soft=soft))
    (mask,) = run("SelectLabels", parsing=parsing).args
    assert torch.equal(mask, parsing.mask("face"))
    with pytest.raises(ValueError, match="selects nothing"):
        run("SelectLabels", parsing=parsing, labels="hair - head")
    with pytest.raises(ValueError, match="hair"):
        run("SelectLabels", parsing=parsing, labels="hiar")


def test_the_editor_is_told_what_is_where_in_the_picture(run, image, parsing, pack):
    parsed = run("ParseFace", image=image).args[0]
    output = run("SelectLabels", parsing=parsed, labels="hair")
    (told,) = output.ui["faceparse"]
    assert (told["width"], told["height"]) == (224, 224)
    values, lengths = torch.tensor(told["runs"]).view(-1, 2).unbind(1)
    assert torch.equal(values.repeat_interleave(lengths).view(1, 224, 224), parsing.labels.long())
    with Image.open(pack.folder / "temp" / told["picture"]["filename"]) as picture:
        assert picture.size == (224, 224)
        assert np.abs(np.asarray(picture) / 255 - image[0].numpy()).mean() < 0.02
    again = run("SelectLabels", parsing=parsed, labels="face").ui["faceparse"][0]
    assert again["picture"] == told["picture"], "it is written once"
    # A parsing that did not come from Parse Face has no picture, but the parts are there.
    assert run("SelectLabels", parsing=parsing).ui["faceparse"][0]["picture"] is None
    # A big picture is shown reduced.
    big = parsed.repeated(1)
    big.sizes, big.windows = [(2000, 3000)], [rendering.Window(0, 0, 3000, 2000)]
    del big.labels
    told = run("SelectLabels", parsing=big).ui["faceparse"][0]
    assert max(told["width"], told["height"]) <= 1024 and sum(told["runs"][1::2]) == told["width"] * told["height"]


def test_nodes_show_what_they_made(run, image, parsing, pack):
    mask = parsing.mask("face")
    for name, inputs in (
        ("MaskFeather", dict(mask=mask.expand(9, -1, -1))),
        ("MaskCombine", dict(masks={"mask0": mask, "mask1": mask})),
        ("RefineMask", dict(image=image, mask=mask)),
        ("CutOut", dict(image=image, mask=mask)),
        ("CropFaces", dict(image=image, parsing=parsing)),
    ):
        output = run(name, **inputs)
        ui = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
        assert len(ui["images"]) == min(len(output.args[0]), 4)
        for shown in ui["images"]:
            with Image.open(pack.folder / "temp" / shown["filename"]) as picture:
                assert max(picture.size) <= 512 and picture.mode == "RGB"
        assert pack.nodes["FaceParse" + name].define_schema().has_intermediate_output


def test_pictures_come_with_the_pack(run, pack, monkeypatch):
    options = pack.nodes["FaceParseSamplePortrait"].define_schema().inputs[0].options
    read = []
    monkeypatch.setattr(pack.host, "read_video", lambda file: read.append(file.name) or torch.zeros(24, 8, 8, 3))
    images = {name: run("SamplePortrait", picture=name).args[0] for name in options}
    assert {name: len(image) for name, image in images.items()} == dict.fromkeys(options, 1) | {options[-1]: 24}
    for image in images.values():
        assert image.dtype == torch.float32 and image.shape[3] == 3 and image.min() >= 0 and image.max() <= 1
    assert read == ["portrait.mp4"]
    # Three faces, as promised.
    assert len(run("ParseFace", image=images["several faces"]).args[0].faces[0]) == 3


def test_a_face_that_is_not_there_is_told(run, parsing, caplog):
    (mask,) = run("SelectLabels", parsing=parsing, face="3").args
    told = "no face 3: there is 1 face, number 0; the mask is empty"
    assert not mask.any() and run.texts == [("7", told)] and told in caplog.text
    run("SelectLabels", parsing=parsing, face="0")
    assert run.texts[1:] == [("7", "")], "what was told is taken away again"
    run("SelectLabels", parsing=parsing, face="largest")
    assert len(run.texts) == 2


@pytest.fixture(scope="module")
def couple(image) -> torch.Tensor:
    """Two faces on a wall, the larger on the right: [1, 500, 900, 3]."""
    wall = torch.full((1, 500, 900, 3), 0.5)
    wall[:, 150:374, 40:264] = image
    wall[:, 30:478, 400:848] = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return wall


def test_faces_of_a_scene_are_found_and_told_apart(run, couple):
    parsing, mask, _ = run("ParseFace", image=couple).args
    assert len(parsing.faces[0]) == 2 and mask[0, :, 400:].any() and mask[0, :, :300].any()
    masks = {
        face: run("SelectLabels", parsing=parsing, labels="hair", face=face).args[0]
        for face in ("all", "largest", "0", "1", "2")
    }
    assert torch.equal(masks["largest"], masks["0"]) and torch.equal(masks["0"] + masks["1"], masks["all"])
    assert not masks["0"][0, :, :300].any() and not masks["1"][0, :, 400:].any() and not masks["2"].any()
    info, boxes, count = run("ParsingInfo", parsing=parsing, region="lips").args
    assert count == 2 and [box["x"] > 400 for box in boxes[0]] == [True, False]
    assert json.loads(info)[0]["faces"][1]["index"] == 1


def test_labels_at_a_glance_are_those_of_the_image_made_smaller(run, couple, parsing):
    found = run("ParseFace", image=couple).args[0]
    small = found.small_labels(450)
    assert small.shape == (1, 250, 450) and small.dtype == torch.uint8
    every_second = found.labels[:, 1::2, 1::2]
    assert (small == every_second).float().mean() > 0.985 and len(small.unique()) > 10
    assert torch.equal(parsing.small_labels(224), parsing.labels)
    assert parsing.small_labels(1).shape == (1, 1, 1)


def test_boxes_of_a_detector_take_the_place_of_the_search(run, couple):
    box = {"x": 105, "y": 220, "width": 95, "height": 110, "label": "face", "score": 0.9}
    for bboxes in (box, [box], [[box]]):
        parsing = run("ParseFace", image=couple, bboxes=bboxes).args[0]
        (face,) = parsing.faces[0]
        assert face.x < 200 and face.score == 0.9 and not parsing.mask("person")[0, :, 400:].any()
    both = run("ParseFace", image=couple.expand(2, -1, -1, -1), bboxes=[[box], []]).args[0]
    assert [len(found) for found in both.faces] == [1, 0]
    with pytest.raises(ValueError, match="2 images, but lists of boxes for 3"):
        run("ParseFace", image=couple.expand(2, -1, -1, -1), bboxes=[[box], [], []])


def test_a_picture_can_be_parsed_as_one_portrait(run, couple):
    parsing = run("ParseFace", image=couple, faces="whole image").args[0]
    assert parsing.details == [None]


def test_masks_are_combined_in_the_order_of_their_sockets(run):
    parts = {f"mask{i}": torch.full((1, 2, 2), 1.0 - i / 20) for i in (0, 10, 2)} | {"mask1": None}
    (mask,) = run("MaskCombine", masks=parts, operation="subtract").args
    assert mask.shape == (1, 2, 2) and mask[0, 0, 0] == pytest.approx(0.1)  # 1, less 0.9, less 0.5
    (mask,) = run("MaskCombine", masks={"mask1": torch.ones(2, 2), "mask0": torch.zeros(4, 2, 2)}).args
    assert mask.shape == (4, 2, 2) and mask.all()
    with pytest.raises(ValueError, match="do not go together"):
        run("MaskCombine", masks={"mask0": torch.ones(1, 2, 2), "mask1": torch.ones(1, 3, 2)})


def test_mask_feather(run, parsing):
    mask = parsing.mask("face")
    (same,) = run("MaskFeather", mask=mask).args
    assert torch.equal(same, mask)
    (grown,) = run("MaskFeather", mask=mask, grow=10, feather=4, direction="outward", fill_holes=True).args
    assert grown.shape == mask.shape and (grown >= mask).all() and grown.sum() > mask.sum()
    assert run.progress[-1] == (1, 1)
    with pytest.raises(ValueError, match="empty"):
        run("MaskFeather", mask=torch.zeros(1, 0, 5))


def test_mask_feather_passes_every_input_on(run, parsing, pack):
    from faceparse_core import masks

    mask = parsing.mask("face")
    for inputs, same_as in (
        (dict(keep_largest=1), dict(keep_largest=1)),
        (dict(open=3.0), dict(open_radius=3.0)),
        (dict(close=3.0), dict(close_radius=3.0)),
        (dict(smooth=6.0), dict(smooth_radius=6.0)),
        (dict(blur=2.5), dict(blur_sigma=2.5)),
    ):
        (edited,) = run("MaskFeather", mask=mask, **inputs).args
        assert torch.equal(edited, masks.edit(mask, **same_as))
    old = pack.nodes["FaceParseMaskFeather"].define_schema().inputs[:6]
    assert [given.id for given in old] == ["mask", "grow", "feather", "direction", "fill_holes", "remove_specks"], (
        "graphs that were saved before hold their values in this order"
    )


def test_refine_mask_and_cut_out(run, image, parsing):
    from faceparse_core import masks

    mask = parsing.mask("hair", soft=True)
    (refined,) = run("RefineMask", image=image, mask=mask).args
    assert torch.equal(refined, masks.refine(image, mask, hair=True))
    assert run.progress[-1] == (1, 1)
    rgba, colours, alpha = run("CutOut", image=image, mask=refined).args
    assert torch.equal(rgba, masks.cut_out(image, refined))
    assert torch.equal(colours, rgba[..., :3]) and torch.equal(alpha, refined)
    rgba, _, _ = run("CutOut", image=image, mask=refined, clean_colours=False).args
    assert torch.equal(rgba[..., :3], image)
    with pytest.raises(ValueError, match="do not go together"):
        run("RefineMask", image=image, mask=mask[:, 1:])


def test_the_preview_shows_the_overlay_with_its_legend(run, image, parsing):
    output = run("PreviewParsing", parsing=parsing, image=image, opacity=0.4)
    (shown,) = output.args
    assert torch.equal(shown[:, :224], parsing.overlay(image, opacity=0.4)) and shown.shape[1] > 240
    strip = shown[0, 224:].mul(255).round().to(torch.uint8).flatten(0, 1)
    for label in LABELS:
        there = (strip == torch.tensor(label.colour, dtype=torch.uint8)).all(1).any().item()
        assert there == bool(label.id and parsing.areas[0, label.id]), label.title
    assert output.ui.values is shown
    (plain,) = run("PreviewParsing", parsing=parsing, image=image, legend=False).args
    assert plain.shape == image.shape


def test_the_preview_of_one_with_many(run, image, parsing):
    many = image.repeat(3, 1, 1, 1)
    (one_parsing,) = run("PreviewParsing", parsing=parsing, image=many, legend=False).args
    assert torch.equal(one_parsing, parsing.overlay(image).expand(3, -1, -1, -1))
    (one_image,) = run("PreviewParsing", parsing=parsing.repeated(3), image=image, legend=False).args
    assert torch.equal(one_image, one_parsing)
    with pytest.raises(ValueError, match="of 3 images, but there are 2"):
        run("PreviewParsing", parsing=parsing.repeated(3), image=many[:2])
    with pytest.raises(ValueError, match="224x224, but the image has 200x224"):
        run("PreviewParsing", parsing=parsing, image=image[:, :, :200])


def test_the_legend_of_nothing_and_of_everything_on_pictures_of_any_width():
    for width in (16, 100, 640, 4000):
        for labels in ([], list(range(1, 19))):
            strip = pictures.legend(labels, width)
            assert strip.dtype == torch.uint8 and strip.shape[1:] == (width, 3) and strip.shape[0] < 600


def test_faces_are_cropped_and_pasted(run, image, parsing):
    frames = torch.cat([image, image.flip(2)])
    parsed = run("ParseFace", image=frames).args[0]
    output = run("CropFaces", image=frames, parsing=parsed, size=256, padding=0.25, align=True)
    crops, masks, places = output.args
    assert crops.shape == (2, 256, 256, 3) and masks.shape == (2, 256, 256) and len(places) == 2
    assert run.texts[-1] == ("7", "2 faces") and output.ui["text"] == ["2 faces"] and run.progress[-1] == (2, 2)
    # The whole of each face is in its crop.
    scale = torch.tensor([place.side / 256 for place in places.places])
    assert torch.allclose(masks.sum((1, 2)) * scale**2, parsed.mask("face").sum((1, 2)), rtol=0.05)
    assert 0.15 < masks.mean() < 0.7 and masks[:, 128, 128].min() > 0.99
    (pasted,) = run("PasteFaces", image=frames, crops=1 - crops, face_crops=places, mask=masks, feather=8).args
    face, rest = parsed.mask("face").bool(), parsed.mask("face - cheeks", soft=True) < 0.01
    assert pasted.dtype == torch.float32 and (pasted - frames).abs()[face].mean() > 0.2
    assert (pasted == frames).all(-1)[rest].float().mean() > 0.8
    crops, _, places = run("CropFaces", image=frames, parsing=parsed, size=0, face="index", index=0).args
    assert torch.equal(run("PasteFaces", image=frames, crops=crops, face_crops=places).args[0], frames)
    # A single parsing counts for all images, as elsewhere.
    assert len(run("CropFaces", image=frames, parsing=parsing, face="largest").args[2]) == 2
    assert run("CropFaces", image=image[0], parsing=parsing).args[0].shape == (1, 512, 512, 3)
    _, chin, _ = run("CropFaces", image=image, parsing=parsing, region="chin").args
    assert 0 < chin.mean() < 0.1
    with pytest.raises(ValueError, match="connect the image"):
        run("CropFaces", image=image[:, :200], parsing=parsing)
    with pytest.raises(ValueError, match="hair"):
        run("CropFaces", image=image, parsing=parsing, region="hiar")


def test_crops_of_frames_without_a_face(run, image, grey):
    frames = torch.cat([grey, image, grey])
    parsed = run("ParseFace", image=frames).args[0]
    crops, masks, places = run("CropFaces", image=frames, parsing=parsed).args
    assert len(crops) == len(masks) == 1 and [place.image for place in places.places] == [1]
    pasted = run("PasteFaces", image=frames, crops=crops * 0, face_crops=places).args[0]
    assert torch.equal(pasted[::2], frames[::2]) and not torch.equal(pasted[1], frames[1])

    parsed = run("ParseFace", image=grey).args[0]
    for size, side in ((256, 256), (0, 512)):
        crops, masks, places = run("CropFaces", image=grey, parsing=parsed, size=size).args
        assert crops.shape == (1, side, side, 3) and masks.shape == (1, side, side) and not masks.any()
        assert "no face" in run.texts[-1][1]
        (pasted,) = run("PasteFaces", image=grey, crops=crops + 1, face_crops=places, mask=masks).args
        assert torch.equal(pasted, grey)


def test_info(run, parsing, grey):
    info, boxes, count = run("ParsingInfo", parsing=parsing, region="eyes").args
    (image,) = json.loads(info)
    assert image["width"] == image["height"] == 224 and count == 1 and len(image["faces"]) == 1
    for name, figures in image["labels"].items():
        mask = parsing.mask(name)[0]
        assert figures["pixels"] == mask.sum() and figures["share"] == pytest.approx(mask.mean().item(), abs=1e-6)
        y, x = mask.nonzero(as_tuple=True)
        assert figures["box"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert figures["centre"] == pytest.approx(
            [x.float().mean().item() + 0.5, y.float().mean().item() + 0.5], abs=0.06
        )
    eyes = [image["labels"][name]["box"] for name in ("right eye", "left eye")]
    ((box,),) = boxes
    assert box["x"] == eyes[0][0] and box["x"] + box["width"] == eyes[1][0] + eyes[1][2]
    assert box["label"] == "eyes"

    nothing = run("ParseFace", image=grey).args[0]
    info, boxes, count = run("ParsingInfo", parsing=nothing).args
    assert (json.loads(info)[0]["labels"], boxes, count) == ({}, [[]], 0)
