"""On a real ComfyUI: the pack loads, its nodes and graphs are there, and every graph does what its title says.

The pictures are looked at in places that are known: the boxes below are on samples/closeup.jpg, as (left, top, right,
bottom).
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
NODES = {
    "FaceParseParseFace": "Parse Face",
    "FaceParseSelectLabels": "Select Labels",
    "FaceParseMaskCombine": "Mask Combine",
    "FaceParseMaskFeather": "Mask Feather",
    "FaceParseRefineMask": "Refine Mask",
    "FaceParseCutOut": "Cut Out",
    "FaceParsePreviewParsing": "Preview Parsing",
    "FaceParseParsingInfo": "Parsing Info",
    "FaceParseCropFaces": "Crop Faces",
    "FaceParsePasteFaces": "Paste Faces",
    "FaceParseRecolour": "Recolour",
    "FaceParseMakeUp": "Make-up",
    "FaceParseSmoothSkin": "Smooth Skin",
    "FaceParseBackground": "Background",
    "FaceParseFacePrivacy": "Face Privacy",
    "FaceParseTryOn": "Try On",
    "FaceParseFaceFigures": "Face Figures",
    "FaceParseSamplePortrait": "Sample Portrait",
}
GRAPHS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))

HAIR = (200, 60, 320, 140)
CHEEK = (190, 215, 225, 265)
FOREHEAD = (210, 165, 280, 180)
EYES = (192, 184, 318, 208)
LEFT_EYE = (284, 192, 308, 208)
RIGHT_EYE = (199, 188, 223, 204)
TEETH = (238, 279, 268, 286)
LOWER_LIP = (230, 292, 275, 300)
SUIT = (0, 440, 40, 512)
BACKDROP = (20, 20, 100, 200)
# Compositing with a mask that is nearly 0 costs a step where SaveImage cuts off what is behind the point.
SAME = 1.5


def pictures(result) -> dict[str, Path]:
    """The files of a run that must have gone well, by what stands before the counter in their names."""
    assert result.code == 0, result.errors
    return {re.sub(r"_\d+_$", "", file.stem): file for file in result.files}


def pixels(file: Path, mode: str = "RGB") -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert(mode)).astype(int)


def part(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def change(before: np.ndarray, after: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """How far the pixels of a box differ on the average, in 1/255."""
    return float(np.abs(part(before, box) - part(after, box)).mean())


def roughness(image: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """How far neighbours differ: texture and noise, not shading."""
    grey = part(image, box).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


@pytest.fixture
def original(run, tmp_path) -> np.ndarray:
    """The picture after the server's own loading and saving, which decode and round in their way."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "closeup.jpg"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "original"}},
    }
    (tmp_path / "original.json").write_text(json.dumps(graph))
    return pixels(pictures(run(str(tmp_path / "original.json")))["original"])


# ---------------------------------------------------------------------------------------------- what the server has


def test_the_pack_loads_without_a_complaint(comfy):
    assert "IMPORT FAILED" not in comfy.log
    assert "Traceback" not in comfy.log
    seconds = re.search(r"([\d.]+) seconds: \S*custom_nodes/faceparse\s", comfy.log)
    assert seconds, "the log does not list the pack among those that were imported"


def test_every_node_is_there_and_explains_itself(comfy):
    there = comfy.get_json("/object_info")
    assert {name: there[name]["display_name"] for name in NODES if name in there} == NODES
    for name in NODES:
        node = there[name]
        assert node["category"] == "image/mask/face parsing"
        assert node["description"] and node["search_aliases"]
        for inputs in (node["input"].get("required", {}), node["input"].get("optional", {})):
            for key, (_, options) in inputs.items():
                assert options.get("tooltip"), f"{NODES[name]}: {key} has no tooltip"
        assert comfy.get(f"/extensions/faceparse/docs/{name}.md").startswith(b"#")


def test_the_graphs_are_in_the_template_browser(comfy):
    assert sorted(comfy.get_json("/workflow_templates")["faceparse"]) == GRAPHS
    for name in GRAPHS:
        shown = comfy.get_json(f"/api/workflow_templates/faceparse/{name}.json")
        assert shown == json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
        picture = comfy.get(f"/api/workflow_templates/faceparse/{name}.jpg")
        assert picture[:2] == b"\xff\xd8", f"{name}.jpg is no JPEG"


@pytest.mark.parametrize("name", GRAPHS)
def test_the_server_knows_every_node_and_input_of_the_graph(comfy, name):
    there = comfy.get_json("/object_info")
    for node in json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")).values():
        inputs = there[node["class_type"]]["input"]
        known = {key for group in ("required", "optional") for key in inputs.get(group, {})}
        given = {key.split(".")[0] for key in node["inputs"]}
        assert given <= known
        assert inputs.get("required", {}).keys() <= given


# ---------------------------------------------------------------------------------------------- what the graphs do


def test_hair_mask(run, original):
    mask = pixels(pictures(run("hair_mask"))["hair_mask"])
    assert mask.shape == original.shape
    assert part(mask, HAIR).mean() > 240
    for box in (CHEEK, TEETH, BACKDROP):
        assert part(mask, box).mean() < 5


def test_parse_preview(run, original):
    result = run("parse_preview")
    preview = pixels(pictures(result)["parse_preview"])
    height, width = original.shape[:2]
    assert preview.shape[1] == width and preview.shape[0] > height, "the legend comes below the picture"
    assert change(original, preview, HAIR) > 10
    assert change(original, preview, BACKDROP) < SAME
    figures = json.loads(result.errors[result.errors.index("[\n") :].split("\n]")[0] + "\n]")
    (image,) = figures
    assert (image["width"], image["height"]) == (width, height)
    assert len(image["faces"]) == 1
    assert image["labels"]["hair"]["share"] > 0.1


def test_hair_recolour_changes_the_hair_and_nothing_else(run, original):
    after = pixels(pictures(run("hair_recolour"))["hair_recolour"])
    assert after.shape == original.shape
    redder = (part(after, HAIR) - part(original, HAIR))[..., 0] - (part(after, HAIR) - part(original, HAIR))[..., 2]
    assert redder.mean() > 40
    light = np.corrcoef(part(original, HAIR).mean(-1).ravel(), part(after, HAIR).mean(-1).ravel())[0, 1]
    assert light > 0.9, "the strands and the light are kept"
    for box in (CHEEK, EYES, TEETH, BACKDROP):
        assert change(original, after, box) < SAME


def test_background_removed(run, original):
    after = pixels(pictures(run("background_removed"))["background_removed"], "RGBA")
    assert after.shape == (*original.shape[:2], 4)
    alpha = after[..., 3:]
    assert part(alpha, BACKDROP).max() == 0
    assert all(alpha[y, x] == 0 for y in (0, -1) for x in (0, -1))
    for box in (HAIR, CHEEK, EYES, TEETH):
        assert part(alpha, box).mean() > 250
        assert change(original, after[..., :3], box) < SAME


def test_hair_cut_out(run, original):
    after = pictures(run("hair_cut_out"))
    cut, on_colour = pixels(after["hair_cut_out"], "RGBA"), pixels(after["hair_on_colour"])
    assert cut.shape == (*original.shape[:2], 4) and on_colour.shape == original.shape
    alpha = cut[..., 3:]
    assert part(alpha, HAIR).mean() > 250 and change(original, cut[..., :3], HAIR) < SAME
    assert change(original, on_colour, HAIR) < SAME
    for box in (CHEEK, TEETH, BACKDROP, SUIT):
        assert part(alpha, box).max() < 5
        assert np.abs(part(on_colour, box) - (0x2F, 0x7D, 0x5B)).max() < 5
    assert ((alpha > 20) & (alpha < 235)).sum() > 500, "strands at the edge are half transparent"


def test_privacy_blur(run, original):
    after = pictures(run("privacy_blur"))
    eyes, face = pixels(after["privacy_eyes"]), pixels(after["privacy_face"])
    assert eyes.shape == face.shape == original.shape
    assert change(original, eyes, EYES) > 10
    assert roughness(eyes, EYES) < 0.3 * roughness(original, EYES)
    for box in (TEETH, BACKDROP, SUIT):
        assert change(original, eyes, box) < SAME
    covered = (200, 175, 310, 320)
    blocks = len(np.unique(part(face, covered).reshape(-1, 3), axis=0))
    assert blocks < 60, "of the face only a handful of flat blocks is left"
    for box in (BACKDROP, SUIT):
        assert change(original, face, box) < SAME


def test_privacy_hides_everything_where_no_face_is_found(run, tmp_path):
    grain = np.random.default_rng(1).integers(90, 110, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(grain).save(tmp_path / "wall.png")
    face = pixels(pictures(run("privacy_blur", "--image", str(tmp_path / "wall.png")))["privacy_face"])
    assert len(np.unique(face.reshape(-1, 3), axis=0)) <= 20 * 20


def test_skin_smoothed_keeps_the_features(run, original):
    after = pixels(pictures(run("skin_smoothed"))["skin_smoothed"])
    assert after.shape == original.shape
    assert 0.5 < roughness(after, CHEEK) / roughness(original, CHEEK) < 0.85, "smoother, and still skin"
    assert abs(part(after, CHEEK).mean() - part(original, CHEEK).mean()) < 3, "the skin keeps its colour"
    for box in (LEFT_EYE, RIGHT_EYE, TEETH, HAIR, BACKDROP, SUIT):
        assert change(original, after, box) < SAME


def test_makeup_colours_lips_and_irises(run, original):
    after = pixels(pictures(run("makeup"))["makeup"])
    assert after.shape == original.shape
    difference = after - original
    lips = part(difference, LOWER_LIP).mean((0, 1))
    assert lips[0] - lips[1] > 30, "the lips are redder"
    for eye in (LEFT_EYE, RIGHT_EYE):
        colour = part(difference, eye).mean((0, 1))
        assert colour[2] - colour[0] > 5, "the eyes are bluer"
    assert change(original, after, FOREHEAD) < 10, "the skin is evened, no more"
    for box in (HAIR, BACKDROP, SUIT):
        assert change(original, after, box) < SAME


def test_try_on_lays_glasses_and_a_hat_on(run, original):
    after = pixels(pictures(run("try_on"))["try_on"])
    assert after.shape == original.shape
    for eye in (LEFT_EYE, RIGHT_EYE):
        assert part(after, eye).mean() < part(original, eye).mean() - 20, "dark lenses"
    assert change(original, after, HAIR) > 20, "a hat"
    for box in (TEETH, LOWER_LIP, SUIT):
        assert change(original, after, box) < SAME


def test_face_figures_draws_the_curves_of_a_video(run):
    with Image.open(pictures(run("face_figures"))["face_figures"]) as plot:
        colours = plot.convert("RGB").getcolors(1 << 24)
    assert plot.width >= 400 and len(colours) > 10


def test_portrait_retouched_makes_up_what_was_smoothed(run, original):
    after = pixels(pictures(run("portrait_retouched"))["portrait_retouched"])
    assert after.shape == original.shape
    assert roughness(after, FOREHEAD) < roughness(original, FOREHEAD)
    lips = part(after - original, LOWER_LIP).mean((0, 1))
    assert lips[0] - lips[1] > 10, "the lips are redder"
    for box in (HAIR, BACKDROP, SUIT):
        assert change(original, after, box) < SAME


def test_crop_edit_paste_sharpens_the_face_and_nothing_else(run, original):
    after = pixels(pictures(run("crop_edit_paste"))["crop_edit_paste"])
    assert after.shape == original.shape
    for box in (LEFT_EYE, RIGHT_EYE, CHEEK):
        assert roughness(after, box) > 1.2 * roughness(original, box)
    changed = np.abs(after - original).max(-1) > 0
    assert 0.05 < changed.mean() < 0.25
    for box in (BACKDROP, SUIT):
        assert not part(changed, box).any()


def test_crop_edit_paste_leaves_a_picture_without_a_face_alone(run, tmp_path):
    grain = np.random.default_rng(1).integers(90, 110, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(grain).save(tmp_path / "wall.png")
    after = pixels(pictures(run("crop_edit_paste", "--image", str(tmp_path / "wall.png")))["crop_edit_paste"])
    assert np.array_equal(after, grain)


def test_group_photo_leaves_the_colours_of_one_person(run):
    """On samples/portrait.jpg, a whole scene: a face of 100 pixels, a flag, an orange suit."""
    scene = str(PACK / "samples" / "portrait.jpg")
    after = pixels(pictures(run("group_photo", "--image", scene))["group_photo"])

    def colour(box) -> float:
        seen = part(after, box)
        return float((seen.max(-1) - seen.min(-1)).mean())

    assert colour((185, 40, 265, 75)) > 30, "the hair"
    assert colour((195, 120, 215, 150)) > 30, "the cheek"
    for box in ((0, 150, 60, 400), (60, 300, 120, 440), (380, 100, 500, 250)):
        assert colour(box) < 3, "the flag, the suit, the shuttle"


def test_video_batch_recolours_every_frame(run, tmp_path):
    (video,) = run("video_batch").files
    assert video.suffix == ".mp4" and video.read_bytes()[4:8] == b"ftyp"
    frames = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": ""}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "frames"}},
    }
    graph = tmp_path / "frames.json"
    graph.write_text(json.dumps(frames))
    before = [pixels(file) for file in run(str(graph), "--image", str(PACK / "samples" / "portrait.mp4")).files]
    after = [pixels(file) for file in run(str(graph), "--image", str(video)).files]
    assert len(before) == len(after) == 24
    for old, new in zip(before, after, strict=True):
        assert new.shape == old.shape
        redder = (new - old)[..., 0] - (new - old)[..., 2]
        assert 0.05 < (redder > 15).mean() < 0.4, "the hair, and not much more"
        assert np.abs(new - old)[:, :20].mean() < 4, "the backdrop is as it was, but for the compression"


def test_inpaint_region_names_the_checkpoint_that_is_missing(run):
    result = run("inpaint_region")
    assert result.code == 1
    assert "Load Checkpoint" in result.errors and "v1-5-pruned-emaonly-fp16.safetensors" in result.errors


def test_inpaint_region_is_valid_with_a_checkpoint_that_the_server_has(comfy, run):
    name = "any.safetensors"
    (comfy.base / "models" / "checkpoints" / name).write_bytes(b"no weights")
    result = run("inpaint_region", "--set", f"Load Checkpoint.ckpt_name={name}")
    # Validated and begun: what fails is reading our stand-in for a checkpoint.
    assert result.code == 1
    assert "Load Checkpoint (node" in result.errors and "not in list" not in result.errors


# ---------------------------------------------------------------------------------------------- runs, and how they fail


def test_other_labels_run_without_the_model(comfy, run):
    pictures(run("hair_mask", "--set", "Select Labels.labels=hair"))
    before = comfy.log.count("Parse Face: 1 image")
    assert before, "the log tells of every run of the model"
    mask = pixels(pictures(run("hair_mask", "--set", "Select Labels.labels=face + neck"))["hair_mask"])
    assert part(mask, CHEEK).mean() > 240 and part(mask, HAIR).mean() < 10
    assert comfy.log.count("Parse Face: 1 image") == before


def test_another_picture_runs_the_model_again(comfy, run, original, tmp_path):
    pictures(run("hair_mask"))
    before = comfy.log.count("Parse Face: 1 image")
    Image.fromarray(original[:, ::-1].astype(np.uint8)).save(tmp_path / "mirrored.png")
    mask = pixels(pictures(run("hair_mask", "--image", str(tmp_path / "mirrored.png")))["hair_mask"])
    assert mask.shape == original.shape
    assert comfy.log.count("Parse Face: 1 image") == before + 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_run_stops_on_the_server_too(comfy, tmp_path):
    command = [sys.executable, PACK / "workflows" / "run.py", "video_batch", "--server", comfy.url, "--out", tmp_path]
    command += ["--set", "Parse Face.resolution=1024", "--set", "Parse Face.batch_size=1"]
    before = comfy.log.count("Parse Face: 24 images")
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if re.match(r"Parse Face \d+/24", line):  # which of the counts are told depends on the machine's speed
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=60)
    assert process.returncode == 130
    until = time.monotonic() + 60
    while comfy.get_json("/queue")["queue_running"]:
        assert time.monotonic() < until, "the server goes on with the run"
        time.sleep(0.1)
    assert comfy.log.count("Parse Face: 24 images") == before
    assert not list(tmp_path.iterdir())


def test_a_big_mask_grows_far_in_bounded_time(run, tmp_path):
    """A square of 100 pixels in 3 million, grown by 500: a disc-cornered square, and no hang."""
    graph = {
        "1": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 2000, "height": 1500}},
        "2": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 100, "height": 100}},
        "3": {
            "class_type": "MaskComposite",
            "inputs": {"destination": ["1", 0], "source": ["2", 0], "x": 950, "y": 700, "operation": "add"},
        },
        "4": {
            "class_type": "FaceParseMaskFeather",
            "inputs": {
                "mask": ["3", 0], "grow": 500, "feather": 0, "direction": "both", "fill_holes": True,
                "remove_specks": 0,
            },
        },
        "5": {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "grown"}},
    }  # fmt: skip
    (tmp_path / "grow.json").write_text(json.dumps(graph))
    (grown,) = run(str(tmp_path / "grow.json")).files
    area = (pixels(grown)[..., 0] > 127).sum()
    assert area == pytest.approx(100**2 + 4 * 100 * 500 + np.pi * 500**2, rel=0.01)


def test_the_error_of_a_node_arrives(run, tmp_path):
    Image.new("RGB", (96, 64), "grey").save(tmp_path / "grey.png")
    result = run("hair_mask", "--image", str(tmp_path / "grey.png"), "--set", "Parse Face.on_no_face=error")
    assert result.code == 1 and not result.files
    assert re.search(r"Parse Face \(node 2\): .*face", result.errors)
    assert "Traceback" not in result.errors


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("Select Labels.labels=hiar", "did you mean 'hair'"),
        ("Select Labels.labels=hair - head", "selects nothing"),
        ("Select Labels.include=hair", "names no inputs: write NODE.INPUT=VALUE with Load Image.image"),
        ("Selct Labels.labels=hair", "Select Labels"),
        ("Parse Face.resolution=many", "number"),
        ("Select Labels.soft=perhaps", "true or false"),
        ("Parse Face.resolution=500000", "resolution"),
    ],
)
def test_a_wrong_setting_is_explained(run, assignment, says):
    result = run("hair_mask", "--set", assignment)
    assert result.code == 1
    assert says in result.errors
    assert "Traceback" not in result.errors


def test_what_is_not_there_is_explained(run, runner, capsys, tmp_path):
    assert "there is no workflow 'hairmask'" in run("hairmask").errors
    assert "there is no file" in run("hair_mask", "--image", str(tmp_path / "none.jpg")).errors
    assert runner.main(["hair_mask", "--server", "http://127.0.0.1:9"]) == 1
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
