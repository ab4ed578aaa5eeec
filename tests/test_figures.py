"""Figures of faces: on drawn faces of which they are known, on the sample, over frames, and on the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.figures import under
from faceparse_core import FaceParser, edits, images
from faceparse_core.cli import main
from faceparse_core.labels import LABELS
from tests.drawn import a_face, its_face

SKIN = torch.tensor([0.80, 0.60, 0.50])
GREY = torch.tensor([0.5, 0.5, 0.5])


def painted(labels: torch.Tensor, eyes: torch.Tensor | None = None) -> torch.Tensor:
    """A picture of a label map: skin, a grey wall, dark hair, and other parts in the colours of their labels."""
    colours = torch.tensor([label.colour for label in LABELS]) / 255
    colours[0], colours[1], colours[2], colours[13] = GREY, SKIN, SKIN, GREY * 0.4
    if eyes is not None:
        colours[4] = colours[5] = eyes
    return colours[labels.long()]


def figures(labels: torch.Tensor, image: torch.Tensor | None = None, **options) -> dict:
    image = painted(labels) if image is None else image
    return edits.face_figures(image, labels[None], [[its_face(labels)]], **options)[0][0]


def eyes_of(height: float, width: float = 0.16) -> tuple:
    return (("l_eye", 0.46, 0, width, height), ("r_eye", -0.46, 0, width, height))


# ---------------------------------------------------------------------------------------------- eyes, mouth, tilt


@pytest.mark.parametrize("turned", [0, 30, -60])
@pytest.mark.parametrize("height", [0.03, 0.06, 0.09])
def test_eyes_are_as_open_as_high_over_wide(turned, height):
    found = figures(a_face(without=("l_eye", "r_eye"), more=eyes_of(height), turned=turned))
    assert found["eyes"]["open"] == pytest.approx(height / 0.16, abs=0.08)
    assert found["tilt"] == pytest.approx(turned, abs=1) and found["yaw"] == pytest.approx(0, abs=4)


def test_closed_eyes_whatever_the_network_calls_them():
    bare = a_face(without=("l_eye", "r_eye"))
    assert figures(bare)["eyes"] == {"left": 0.0, "right": 0.0, "open": 0.0}
    lids = a_face()
    assert figures(lids, painted(lids, eyes=SKIN * 0.97))["eyes"]["open"] == 0
    wink = figures(a_face(without=("l_eye",)))["eyes"]
    assert wink["left"] == 0 and wink["right"] > 0.3


def test_what_is_behind_dark_glasses_is_not_told():
    found = figures(a_face(without=("l_eye", "r_eye"), glasses=True))
    assert found["eyes"] == {"left": None, "right": None, "open": None}


def test_mouth_opens_and_corners_lift():
    rest = figures(a_face())["mouth"]
    assert rest["open"] == 0
    agape = figures(a_face(more=(("mouth", 0, 1.0, 0.2, 0.12),)))["mouth"]
    assert agape["open"] == pytest.approx(0.24 / 0.68, abs=0.06)
    up, down = (
        figures(a_face(more=tuple(("u_lip", side * 0.33, 1 - lift, 0.06, 0.05) for side in (-1, 1))))["mouth"]["smile"]
        for lift in (0.12, -0.12)
    )
    assert up > rest["smile"] + 0.08 and down < rest["smile"] - 0.08


def test_shares_are_of_the_head():
    shares = figures(a_face())["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.001) and shares["skin"] > shares["hair"] > shares["nose"] > 0


# ---------------------------------------------------------------------------------------------- skin


def test_cielab_is_that_of_the_standard():
    # sRGB under D65: red, green, blue, and black.
    pixels = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])
    known = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]]
    assert torch.allclose(edits.to_cielab(pixels), torch.tensor(known), atol=0.05)


@pytest.mark.parametrize(
    ("angle", "name"),
    [
        (60, "very light"),
        (55, "light"),
        (42, "light"),
        (30, "intermediate"),
        (11, "tan"),
        (-29, "brown"),
        (-31, "dark"),
    ],
)
def test_classes_of_the_typology_angle(angle, name):
    assert edits.tone_class(angle) == name


def test_shine_and_shadow_do_not_count():
    labels = a_face()
    image = painted(labels)
    plain = figures(labels, image)["skin"]
    assert plain["lab"] == pytest.approx(edits.to_cielab(SKIN[None])[0].tolist(), abs=0.2)
    assert plain["sure"] > 0.9 and not plain["balanced"]
    shown = image.clone()
    skin = (labels == 1).nonzero()
    generator = torch.Generator().manual_seed(0)
    order = skin[torch.randperm(len(skin), generator=generator)]
    for part, colour in ((order[: len(order) // 10], 1.0), (order[-len(order) // 5 :], 0.1)):
        shown[part[:, 0], part[:, 1]] = colour
    assert figures(labels, shown)["skin"]["ita"] == pytest.approx(plain["ita"], abs=0.5)


def test_cheeks_are_told_apart_and_light_from_the_side_makes_it_less_sure():
    labels = a_face()
    image = painted(labels)
    image[:, labels.shape[1] // 2 :] *= 0.6  # the subject's left
    skin = figures(labels, image)["skin"]
    assert skin["left cheek"]["ita"] < skin["right cheek"]["ita"] - 10
    assert skin["sure"] < 0.8


@pytest.mark.parametrize("gains", [(1.25, 1.0, 0.7), (0.8, 1.0, 1.3)], ids=["warm", "cold"])
def test_white_balance_takes_a_cast_out(portrait, gains):
    labels = a_face()
    plain = painted(labels)
    cast = under(plain, gains)
    before = figures(labels, plain, white_balance=True)["skin"]
    after, raw = figures(labels, cast, white_balance=True)["skin"], figures(labels, cast)["skin"]
    assert after["ita"] == pytest.approx(before["ita"], abs=2) and after["balanced"]
    assert abs(raw["ita"] - before["ita"]) > 8 and raw["sure"] < before["sure"]


def test_the_sample_under_a_cast(sample):
    image, parsing = sample
    told = lambda shown: edits.face_figures(shown, parsing.labels, parsing.faces, white_balance=True)[0][0]  # noqa: E731
    before = told(image)
    assert before["eyes"]["open"] > 0.25 and before["mouth"]["open"] > 0.05 and before["mouth"]["smile"] > 0
    assert abs(before["tilt"]) < 10 and abs(before["yaw"]) < 20
    assert before["skin"]["class"] in ("very light", "light", "intermediate", "tan")
    for gains in ((1.25, 1.0, 0.7), (0.8, 1.0, 1.3)):
        assert told(under(image, gains))["skin"]["ita"] == pytest.approx(before["skin"]["ita"], abs=5)


@pytest.fixture(scope="module")
def sample(portrait):
    image = images.as_float(images.load(portrait.parents[1] / "samples" / "closeup.jpg")[0])
    return image, FaceParser("lite", "cpu").parse(image)


def test_images_and_faces_must_go_together():
    labels = a_face()
    with pytest.raises(ValueError, match="give as many"):
        edits.face_figures(painted(labels), labels[None], [[], []])
    assert edits.face_figures(painted(labels), labels[None], [[]]) == [[]]


# ---------------------------------------------------------------------------------------------- over frames


def test_blinks_are_short():
    usual, shut = [0.4] * 20, [0.05] * 3
    assert edits.blinks(usual + shut + usual + [None] + shut + usual) == [(20, 22), (44, 46)]
    assert edits.blinks(usual + [0.05] * 25 + usual, fps=25) == [], "asleep"
    assert edits.blinks(usual + [0.05] * 15 + usual, fps=60) == [(20, 34)]
    with pytest.raises(ValueError, match="fps"):
        edits.blinks(usual, fps=0)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=60))
def test_blinks_of_anything(openness):
    found = edits.blinks(openness)
    assert all(0 <= first <= last < len(openness) for first, last in found)
    assert all(a[1] < b[0] for a, b in zip(found, found[1:], strict=False))
    assert all(openness[i] is not None for first, last in found for i in range(first, last + 1))


def video(count: int = 30) -> list[list[dict]]:
    """The figures of a face that blinks in frames 10 and 11, and is gone in frame 20."""
    opened, closed = (figures(a_face(without=gone)) for gone in ((), ("l_eye", "r_eye")))
    return [[closed if i in (10, 11) else opened] if i != 20 else [] for i in range(count)]


def test_plot_shows_curves_and_blinks():
    frames = video()
    plot = np.array(edits.plot(frames))
    assert plot.shape == (830, 1000, 3)
    column = lambda frame: 120 + round(860 * frame / 29)  # noqa: E731
    shaded = (plot[80:160] == (225, 232, 242)).all(-1).any(0)
    assert shaded[column(10)] and shaded[column(11)] and not shaded[column(5)]
    blue = (plot == (40, 110, 190)).all(-1)[60:164, 122:]
    assert blue.any(0).sum() > 700 and blue.any(1).sum() > 40


def test_csv_has_a_line_for_each_face():
    rows = list(csv.DictReader(io.StringIO(edits.as_csv(video(), [f"{i}.png" for i in range(30)]))))
    assert len(rows) == 29 and rows[10]["image"] == "10.png" and rows[10]["eyes open"] == "0.0"
    assert float(rows[0]["skin left cheek ita"]) == pytest.approx(float(rows[0]["skin ita"]), abs=1)
    assert edits.as_csv([[]]) == "image\r\n"


# ---------------------------------------------------------------------------------------------- the command line


ON_CPU = ["--model", "lite", "--device", "cpu"]


@pytest.fixture
def frames(portrait, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        shutil.copy(portrait.parents[1] / "samples" / "closeup.jpg", folder / f"{i}.jpg")
    return folder


def test_json_and_a_plot_of_frames(frames, tmp_path, capsys):
    target = tmp_path / "curves.png"
    assert main(["figures", str(frames), *ON_CPU, "--json", "--plot", str(target)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "no medical measure" in told["note"] and len(told["images"]) == 3 and told["blinks"] == []
    (face,) = told["images"][2]["faces"]
    assert face["index"] == 0 and face["skin"]["class"] and face["eyes"]["left"] > 0.2
    with Image.open(target) as plot:
        assert plot.size == (1000, 830)
    (tmp_path / "mine.png").write_bytes(b"not ours")
    assert main(["figures", str(frames), *ON_CPU, "--plot", str(tmp_path / "mine.png")]) == 1
    assert "--force" in capsys.readouterr().err


def test_words_and_csv_and_a_picture_that_is_none(frames, capsys):
    (frames / "0.jpg").write_text("no picture")
    (frames / "2.jpg").unlink()
    assert main(["figures", str(frames), *ON_CPU]) == 1
    out, err = capsys.readouterr()
    assert "ITA" in out and "eyes open: left 0." in out and "no medical measure" in out and "not a picture" in err
    assert main(["figures", str(frames / "1.jpg"), *ON_CPU, "--csv", "--white-balance"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["image"].endswith("1.jpg") and row["skin balanced"] == "True"


@pytest.mark.parametrize("arguments", [["--fps", "0"], ["--face", "-1"], ["--plot", "x.jpg"], ["--json", "--csv"]])
def test_wrong_usage_is_told(portrait, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["figures", str(portrait), *arguments])
