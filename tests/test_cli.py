"""The command line as a person uses it: files out, words on the screen, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from faceparse_core.cli import main
from faceparse_core.labels import LABELS

ON_CPU = ["--model", "lite", "--device", "cpu"]


@pytest.fixture
def picture(portrait, tmp_path):
    return shutil.copy(portrait, tmp_path / "me.jpg")


def test_labels_and_overlay(picture, tmp_path, capsys):
    assert main([str(picture), *ON_CPU]) == 0
    labels, overlay = Image.open(tmp_path / "me.labels.png"), Image.open(tmp_path / "me.overlay.png")
    assert labels.mode == "P" and labels.size == overlay.size == (512, 512)
    ids = np.array(labels)
    assert {1, 2, 13} <= set(np.unique(ids)) <= set(range(19))
    assert tuple(labels.getpalette()[13 * 3 : 13 * 3 + 3]) == LABELS[13].colour
    original = np.array(Image.open(picture)).astype(int)
    changed = (np.abs(np.array(overlay).astype(int) - original) > 2).any(-1)
    assert not changed[ids == 0].any() and changed[ids == 13].mean() > 0.95
    out = capsys.readouterr().out
    assert out.startswith("lite on cpu, ")
    for word in ("me.jpg: 512x512, 1 face", "hair", "lower lip", "%", "labels: ", "me.overlay.png"):
        assert word in out


def test_region_mask(picture, tmp_path):
    target = tmp_path / "hair.png"
    assert main([str(picture), *ON_CPU, "--region", "hair", "-o", str(target)]) == 0
    mask = np.array(Image.open(target))
    assert mask.shape == (512, 512) and set(np.unique(mask)) == {0, 255}
    assert main([str(picture), *ON_CPU, "--region", "hair", "--soft", "-o", str(target)]) == 0
    soft = np.array(Image.open(target))
    assert len(np.unique(soft)) > 50
    # More than half of the probability decides a pixel; less than a nineteenth cannot.
    assert mask[soft > 128].all() and not mask[soft < 255 // 19].any()
    assert not (tmp_path / "me.labels.png").exists()


def test_cut_out(picture, tmp_path):
    assert main([str(picture), *ON_CPU, "--region", "head", "--cutout"]) == 0
    cutout = np.array(Image.open(tmp_path / "me.cutout.png"))
    assert cutout.shape == (512, 512, 4)
    inside = cutout[..., 3] == 255
    assert np.array_equal(cutout[inside][:, :3], np.array(Image.open(picture))[inside])
    assert cutout[5, 5, 3] == 0 and cutout[80, 225, 3] == 255


@pytest.mark.parametrize("region", ["hair", "person", "face - forehead"])
def test_refined_masks_and_their_edges(picture, tmp_path, region):
    target = tmp_path / "mask.png"

    def mask(*flags: str) -> np.ndarray:
        exact = [*ON_CPU, "--precision", "fp32"]  # the suit is half found, and half of that at the limit
        assert main([str(picture), *exact, "--region", region, *flags, "-o", str(target)]) == 0
        return np.array(Image.open(target)).astype(int)

    soft, refined = mask("--soft"), mask("--refine")
    assert ((refined > 128) == (soft > 128)).mean() > 0.97 and (refined != soft).any()
    grown, feathered = mask("--refine", "--grow", "5.5"), mask("--refine", "--feather", "20")
    assert (grown >= refined).all() and grown.sum() > refined.sum()
    assert ((feathered > 20) & (feathered < 235)).sum() > ((refined > 20) & (refined < 235)).sum()
    cut = mask("--refine", "--grow", "-2", "--cutout")
    assert cut.shape == (512, 512, 4) and cut[..., 3].sum() < refined.sum()


def test_json(picture, capsys):
    assert main([str(picture), *ON_CPU, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["model"] == "lite" and run["device"] == "cpu" and run["failed"] == []
    (image,) = run["images"]
    assert sum(label["pixels"] for label in image["labels"]) == 512 * 512
    assert sum(label["share"] for label in image["labels"]) == pytest.approx(1)
    assert len(image["faces"]) == 1 and image["faces"][0]["width"] > 50
    assert set(image["files"]) == {"labels", "overlay"}


@pytest.fixture
def couple(portrait, tmp_path):
    """Two faces, the larger on the right."""
    head = Image.open(portrait).crop((112, 4, 336, 228))
    wall = Image.new("RGB", (900, 500), (120, 132, 140))
    wall.paste(head, (40, 150))
    wall.paste(head.resize((448, 448)), (400, 30))
    wall.save(tmp_path / "two.png")
    return tmp_path / "two.png"


def test_one_file_a_face(couple, tmp_path, capsys):
    assert main([str(couple), *ON_CPU, "--region", "hair", "--face", "each", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert [face["index"] for face in image["faces"]] == [0, 1] and image["faces"][0]["x"] > 400
    larger, smaller = (np.array(Image.open(tmp_path / f"two.mask.{i}.png")) > 0 for i in (0, 1))
    assert larger[:, 400:].any() and not larger[:, :300].any()
    assert smaller[:, :300].any() and not smaller[:, 400:].any()
    target = tmp_path / "one.png"
    assert main([str(couple), *ON_CPU, "--region", "hair", "--face", "1", "-o", str(target)]) == 0
    assert np.array_equal(np.array(Image.open(target)) > 0, smaller)
    capsys.readouterr()
    main([str(tmp_path), *ON_CPU, "--json"])  # masks are no input
    assert [image["image"] for image in json.loads(capsys.readouterr().out)["images"]] == [str(couple), str(target)][
        ::-1
    ]


def test_as_one_portrait(couple, capsys):
    assert main([str(couple), *ON_CPU, "--faces", "image", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["labels"]


def test_a_folder_goes_on_past_a_bad_file(picture, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    Image.new("L", (40, 30), 120).save(tmp_path / "zz.png")
    out = tmp_path / "out" / "deep"
    assert main([str(tmp_path), *ON_CPU, "-o", str(out)]) == 1
    assert sorted(p.name for p in out.iterdir()) == [
        "me.labels.png", "me.overlay.png", "zz.labels.png", "zz.overlay.png",
    ]  # fmt: skip
    err = capsys.readouterr().err
    assert "broken.jpg" in err and "1 of 3 pictures failed" in err


def test_our_own_outputs_are_not_taken_for_input(picture, tmp_path, capsys):
    assert main([str(tmp_path), *ON_CPU]) == 0
    assert main([str(tmp_path), *ON_CPU, "--json"]) == 0
    run = json.loads(capsys.readouterr().out.split("\n", 1)[1].partition("{")[2].join(["{", ""]))
    assert len(run["images"]) == 1


def test_nothing_is_overwritten_by_accident(picture, tmp_path, capsys):
    before = picture.read_bytes()
    assert main([str(picture), *ON_CPU, "--region", "hair", "-o", str(picture)]) == 1
    assert picture.read_bytes() == before and "overwrite" in capsys.readouterr().err
    Image.open(picture).save(tmp_path / "me.png")
    assert main([str(picture), str(tmp_path / "me.png"), *ON_CPU]) == 1
    assert "already written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "hare"], "hair"),
        (["--soft"], "--region"),
        (["--cutout"], "--region"),
        (["--refine"], "--region"),
        (["--grow", "3"], "--region"),
        (["--region", "hair", "--feather", "-1"], "0 or more"),
        (["--face", "largest"], "--region"),
        (["--region", "hair", "--face", "left"], "largest"),
        (["--faces", "all"], "image"),
        (["--precision", "fp8"], "fp16"),
        (["--fit", "squeeze"], "stretch"),
    ],
)
def test_wrong_usage_is_exit_code_2(picture, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main([str(picture), *ON_CPU, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_one_file_for_several_pictures_is_refused(picture, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(picture), str(picture) + "2", *ON_CPU, "--region", "hair", "-o", "x.png"])
    assert stopped.value.code == 2 and "give a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["--resolution", "500"], "multiple of 32"),
        (["--model", "light"], "lite"),
        (["--model", "./nothing.safetensors"], "nothing.safetensors"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_fails_is_exit_code_1_and_one_line(picture, capsys, arguments, message):
    images = [] if arguments[0].endswith(".jpg") else [str(picture)]
    assert main([*images, *ON_CPU, *arguments]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_an_empty_folder(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no pictures" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(picture, tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        assert main([str(picture), *ON_CPU]) == 1
    finally:
        tmp_path.chmod(0o700)
    assert "me.labels.png" in capsys.readouterr().err


def test_models_lists_the_bundled_one(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "lite.safetensors" in out and "segformer-b5" in out and "not here" in out and "non-commercial" in out


def test_download_offline_says_why(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("FACEPARSE_OFFLINE", "1")
    assert main(["download"]) == 1
    assert "FACEPARSE_OFFLINE" in capsys.readouterr().err


def test_auto_without_the_published_weights_says_so_once(picture, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    env = {**os.environ, "FACEPARSE_OFFLINE": "1"}
    command = [sys.executable, "-m", "faceparse_core", str(picture), "--device", "cpu"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lite on cpu")
    assert done.stderr.count("\n") == 1 and "faceparse download segformer-b5" in done.stderr


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom faceparse_core.cli import main\n"
        "try:\n main(['--help'])\nfinally:\n assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "AssertionError" not in done.stderr
    for word in ("--region", "--cutout", "examples:", "faceparse models"):
        assert word in done.stdout
