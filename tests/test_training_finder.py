import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from faceparse_core import checkpoints
from faceparse_core.cli import main
from faceparse_core.labels import region_ids
from faceparse_core.training.finder import FinderConfig, losses_of, started, train
from faceparse_core.training.photos import Photos, face_of_labels, held_back
from faceparse_core.training.scenes import Scene, Scenery, Scenes


def drawn_head(side=128):
    """A head as a drawing, and its labels."""
    image, mask = Image.new("RGB", (side, side), (70, 90, 160)), Image.new("L", (side, side))
    parts = [
        ("hair", (24, 8, 104, 100), (60, 40, 20)),
        ("skin", (32, 20, 96, 120), (220, 170, 140)),
        ("right eye", (44, 52, 56, 60), (20, 20, 40)),
        ("left eye", (72, 52, 84, 60), (20, 20, 40)),
        ("nose", (58, 60, 70, 84), (200, 140, 120)),
        ("upper lip", (50, 92, 78, 102), (180, 60, 60)),
    ]
    for name, box, colour in parts:
        ImageDraw.Draw(image).ellipse(box, fill=colour)
        ImageDraw.Draw(mask).ellipse(box, fill=region_ids(name)[0])
    return image, mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    image, mask = drawn_head()
    for name in ("portraits", "frames", "masked", "street", "hair", "backgrounds"):
        (folder / name / "images").mkdir(parents=True)
    (folder / "portraits" / "masks").mkdir()
    for name in ("a", "b"):
        image.save(folder / "portraits" / "images" / f"{name}.jpg", quality=95)
        mask.save(folder / "portraits" / "masks" / f"{name}.png")
    (folder / "portraits" / "train.txt").write_text("a b")
    box, marks = [32, 40, 64, 80], [[50, 56], [78, 56], [64, 78], [52, 97], [76, 97]]
    image.save(folder / "frames" / "images" / "f.jpg")
    (folder / "frames" / "faces.json").write_text(json.dumps({"f.jpg": {"box": box, "marks": marks}}))
    for name in ("m0", "m1"):
        image.save(folder / "masked" / "images" / f"{name}.png")
    boxes = {name: [[*box, "with_mask"]] for name in ("m0", "m1")}
    (folder / "masked" / "boxes.json").write_text(json.dumps(boxes))
    found = {"size": [128, 128], "faces": [[*box, 0.99], [0, 0, 20, 20, 0.9]], "marks": [marks, marks]}
    for name, row in (("street", found), ("hair", {"size": [128, 128], "faces": [], "marks": []})):
        image.save(folder / name / "images" / "s.jpg")
        (folder / name / "train.txt").write_text("s")
        (folder / "extra-faces.json").write_text(
            json.dumps({"street/s.jpg": found, "hair/s.jpg": row if name == "hair" else {}})
        )
    Image.new("RGB", (200, 150), (90, 120, 60)).save(folder / "backgrounds" / "grass.jpg")
    return folder


@pytest.fixture(scope="module")
def photos(data):
    return Photos.read(data)


def test_every_source_is_read(photos):
    counts = {name: len(some) for name, some in photos.sources.items()}
    assert counts == {"portraits": 2, "frames": 1, "masked": 1, "street": 1, "turned away": 1}
    assert photos.sources["street"][0].known.tolist() == [True, False]
    assert len(photos.backgrounds) == 1


def test_half_of_the_masked_is_kept_out_of_training():
    assert held_back(["c", "a", "d", "b"]) == ["b", "d"]


def test_boxes_of_all_sources_are_alike(photos):
    boxes = [photos.sources[name][0].boxes[0] for name in ("portraits", "frames", "street")]
    for box in boxes[1:]:
        np.testing.assert_allclose(box, boxes[0], atol=12)


def test_box_and_marks_come_from_labels():
    _, mask = drawn_head()
    box, marks = face_of_labels(np.array(mask))
    np.testing.assert_allclose(box, [64.5, 70.5, 65, 101], atol=1)
    np.testing.assert_allclose(marks, [[50, 56], [78, 56], [64, 76], [50, 97], [78, 97]], atol=3)
    assert face_of_labels(np.zeros((64, 64), np.uint8)) is None


def test_marks_lie_on_what_they_mark(photos):
    """Whatever the tilt, mirrored or not: the eyes are dark, the skin is not."""
    scenery = Scenery(covered=0, degrade=0, grey=0, empty=0, photos=1, sources=(("portraits", 1.0),))
    dark = bright = 0
    for seed in range(80):
        scene = Scene(photos, scenery, np.random.default_rng(seed), 192)
        for box, marks, known in zip(scene.boxes, scene.marks, scene.known, strict=True):
            if known and box[3] > 60 and (marks[:3] > 2).all() and (marks[:3] < 190).all():
                eye, nose = (scene.pixels[int(marks[i][1]), int(marks[i][0])].mean() for i in (0, 2))
                dark += eye < nose
                bright += eye >= nose
    assert dark > 10 and bright == 0


def test_a_step_is_a_function_of_the_seed(photos):
    batches = [Scenes(photos, [96] * 3, 2, Scenery(), seed)[1] for seed in (5, 5, 6)]
    assert batches[0][0].shape == (2, 3, 96, 96) and batches[0][1].shape == (2, 17, 12, 12)
    assert torch.equal(batches[0][0], batches[1][0]) and not torch.equal(batches[0][0], batches[2][0])


def test_the_loss_is_least_where_the_truth_is_said(photos):
    _, targets = Scenes(photos, [96], 8, Scenery(), 0)[0]
    truth = targets[:, 3:].nan_to_num()
    right = torch.cat([(targets[:, :1] * 24 - 12), truth], 1)
    wrong = torch.cat([-right[:, :1], truth + 0.3], 1)
    right, wrong = losses_of(right, targets), losses_of(wrong, targets)
    assert all(right[name] < 0.5 * wrong[name] for name in ("centres", "boxes", "marks"))


def test_it_starts_with_what_lite_knows():
    network, lite = started("lite"), checkpoints.load(checkpoints.find("lite"), trainable=True)
    pixels = torch.rand(1, 3, 64, 96)
    taps = network.eval().seen(pixels)
    x = lite.eval().stem(pixels)
    theirs = [x := stage(x) for stage in lite.stages[:4]]
    assert [tuple(tap.shape) for tap in taps] == [(1, 40, 8, 12), (1, 80, 4, 6)]
    assert torch.equal(taps[0], theirs[2]) and torch.equal(taps[1], theirs[3])


def test_a_run_learns_is_gone_on_with_and_starts_another(data, tmp_path):
    config = FinderConfig(str(data), str(tmp_path / "1"), steps=3, batch_size=2, sizes=((1.0, 64),), workers=0)
    path = train(config)
    first = load_file(path)
    config.steps = 4
    again = load_file(train(config))
    assert torch.load(tmp_path / "1" / "last.pt", weights_only=True)["step"] == 4
    learnt = {key for key in first if not torch.equal(first[key], again[key])}
    assert "output.weight" in learnt and not any(key.startswith("body.") for key in learnt)
    network = started(str(path))
    assert torch.equal(network.output.bias.half(), again["output.bias"])

    config = replace(config, out=str(tmp_path / "2"), init=str(path), body=0.1)
    further = load_file(train(config))
    assert not torch.equal(further["body.0.conv.weight"], again["body.0.conv.weight"])


def test_the_command_line_trains_it(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--arch", "finder", "--steps", "1", "--batch-size", "2", "--sizes", "1:64", "--workers", "0"]
    assert main(["train", str(data), "--out", str(out), *options]) == 0
    assert capsys.readouterr().out.strip() == str(out / "finder.safetensors")
    assert (out / "config.json").is_file()
    with pytest.raises(SystemExit):
        main(["train", str(data), "--out", str(out), *options, "--balance", "0.5"])
    assert "--balance" in capsys.readouterr().err
