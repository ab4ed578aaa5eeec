"""Try-on: the anchors of a face, pieces laid on by them, and the command line."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceparse_core import FaceParser, edits, images
from faceparse_core.cli import main
from faceparse_core.faces import Face, find_faces
from faceparse_core.training.pieces import DRAWINGS
from tests.drawn import EYES_TO_MOUTH, SIZE, a_face, its_face

EARS = (("l_ear", 1.0, 0.3, 0.12, 0.32), ("r_ear", -1.0, 0.3, 0.12, 0.32))


def worn(name: str, labels: torch.Tensor, image: torch.Tensor | None = None, **options):
    """A piece on the only face of a label map: image and cover, without their batch."""
    grey = torch.full((*labels.shape, 3), 0.5) if image is None else image
    result, cover = edits.try_on(grey, edits.piece(name), labels[None], [[its_face(labels)]], **options)
    return result[0], cover[0]


def middle(cover: torch.Tensor) -> torch.Tensor:
    """The centre of what is covered, (x, y) in pixels."""
    y, x = torch.meshgrid(*[torch.arange(side) + 0.5 for side in cover.shape], indexing="ij")
    return torch.stack([(cover * x).sum(), (cover * y).sum()]) / cover.sum()


def wide_and_tilted(cover: torch.Tensor) -> tuple[float, float]:
    """The spread of what is covered along its longer axis, in pixels, and the angle of that axis in degrees."""
    y, x = (cover > 0.5).nonzero(as_tuple=True)
    spread, axes = torch.linalg.eigh(torch.cov(torch.stack([x, y]).float()))
    return spread[1].sqrt().item(), math.degrees(math.atan2(axes[1, 1], axes[0, 1])) % 180


# ---------------------------------------------------------------------------------------------- anchors


@pytest.mark.parametrize("turned", [0, 20, -45, 90, 180])
def test_anchors_follow_a_face_however_it_is_turned(turned):
    labels = a_face(turned=turned, more=EARS)
    anchors = edits.find_anchors(labels, its_face(labels))
    assert (anchors.frame.angle - turned + 180) % 360 - 180 == pytest.approx(0, abs=1)
    assert anchors.yaw == pytest.approx(0, abs=4)
    for name, place in {
        "left eye": (0.46, 0),
        "right eye": (-0.46, 0),
        "left mouth corner": (0.32, 0.98),
        "chin": (0, 1.62),
        "left ear": (1.0, 0.6),
        "nose": (0, 0.66),
    }.items():
        assert name in anchors.seen and anchors.points[name] == pytest.approx(place, abs=0.06), name
        sine, cosine = math.sin(math.radians(turned)), math.cos(math.radians(turned))
        across, down = place[0] * EYES_TO_MOUTH, (place[1] - 0.4) * EYES_TO_MOUTH
        there = SIZE / 2 + across * cosine - down * sine, SIZE / 2 + down * cosine + across * sine
        assert anchors.in_picture(name) == pytest.approx(there, abs=0.06 * EYES_TO_MOUTH)
    assert set(anchors.points) == set(edits.POINTS)


def test_yaw_has_the_sign_of_the_side_that_the_nose_points_to():
    def turn(sign: int) -> float:
        labels = a_face(without=("nose",), more=(("nose", sign * 0.1, 0.37, 0.2, 0.3),))
        return edits.find_anchors(labels, its_face(labels)).yaw

    assert turn(1) > 8 and turn(-1) == pytest.approx(-turn(1), abs=1)


def test_what_is_not_seen_is_placed_where_it_usually_is():
    labels = a_face(without=("l_eye", "r_eye"), glasses=True)
    anchors = edits.find_anchors(labels, its_face(labels))
    assert "left eye" not in anchors.seen and "left ear" not in anchors.seen
    assert anchors.points["left eye"][0] == pytest.approx(0.35, abs=0.1)  # in the middle of its glass
    assert anchors.points["left ear"] == pytest.approx((1.02, 0.62), abs=0.1)


def test_specks_that_are_called_ear_are_none():
    stray = ("l_ear", 1.15, 1.4, 0.05, 0.05)
    labels = a_face(more=(*EARS, stray))
    anchors = edits.find_anchors(labels, its_face(labels))
    assert anchors.points["left ear"][1] == pytest.approx(0.6, abs=0.06)
    labels = a_face(more=(stray,))
    assert "left ear" not in edits.find_anchors(labels, its_face(labels)).seen


# ---------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("name", edits.piece_names())
@settings(max_examples=6)
@given(turned=st.integers(-90, 90), size=st.floats(0.5, 2), up=st.floats(-1, 1), shadow=st.sampled_from([0.0, 1.0]))
def test_beside_the_piece_and_its_shadow_nothing_changes(name, turned, size, up, shadow):
    labels = a_face(turned=turned, more=EARS)
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(turned))
    result, cover = worn(name, labels, image, size=size, up=up, shadow=shadow)
    same = cover == 0
    if shadow:  # it falls on what is near, and on the person
        alone = worn(name, labels, image, size=size, up=up, front=torch.zeros(SIZE, SIZE))[1]
        near = torch.nn.functional.max_pool2d(alone[None], 41, 1, 20)[0] > 0
        same &= ~(near & torch.isin(labels, torch.tensor([*range(1, 13), 17], dtype=torch.uint8)))
    assert torch.equal(result[same], image[same])
    assert result.min() >= 0 and result.max() <= 1 and cover.min() >= 0 and cover.max() <= 1


def test_glasses_sit_on_the_eyes_in_tilt_and_scale():
    width, angle = wide_and_tilted(worn("sun glasses", a_face())[1])
    assert angle == pytest.approx(0, abs=2) or angle == pytest.approx(180, abs=2)
    for turned in (25, -50):
        cover = worn("sun glasses", a_face(turned=turned))[1]
        again, tilted = wide_and_tilted(cover)
        assert tilted == pytest.approx(turned % 180, abs=2) and again == pytest.approx(width, rel=0.03)
        # The eyes of the drawn face lie 0.4 units above its middle.
        reach = 0.4 * EYES_TO_MOUTH
        eyes = SIZE / 2 + reach * math.sin(math.radians(turned)), SIZE / 2 - reach * math.cos(math.radians(turned))
        assert middle(cover).tolist() == pytest.approx(eyes, abs=5)
    assert wide_and_tilted(worn("sun glasses", a_face(scale=1.5))[1])[0] == pytest.approx(1.5 * width, rel=0.03)
    alone, larger = (worn("sun glasses", a_face(), size=size, front=torch.zeros(SIZE, SIZE))[1] for size in (1, 1.3))
    assert wide_and_tilted(larger)[0] == pytest.approx(1.3 * wide_and_tilted(alone)[0], rel=0.02)


def test_up_moves_along_the_face():
    cover, higher = (worn("hat", a_face(turned=90), up=up)[1] for up in (-0.5, 0))
    moved = middle(higher) - middle(cover)
    # The head of a face that is turned by 90 degrees points to the right.
    assert moved[0] > 0.2 * EYES_TO_MOUTH and abs(moved[1]) < 0.1 * EYES_TO_MOUTH


def test_on_a_head_that_turns_away_the_far_half_is_shorter():
    labels = a_face(
        without=("nose", "l_eye", "r_eye"),
        more=(("nose", 0.12, 0.37, 0.2, 0.3), ("l_eye", 0.4, 0, 0.12, 0.06), ("r_eye", -0.5, 0, 0.17, 0.06)),
    )
    cover = worn("sun glasses", labels)[1] > 0.5
    columns = cover.any(0).nonzero()
    axes = edits.find_anchors(labels, its_face(labels)).frame
    assert axes.x - columns[0] > 1.1 * (columns[-1] - axes.x)


def test_hair_lies_in_front_of_glasses_and_lips_before_a_beard():
    fringe = (("hair", 0.46, -0.2, 0.3, 0.4),)
    labels = a_face(more=fringe)
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))
    result, cover = worn("sun glasses", labels, image)
    inside = -torch.nn.functional.max_pool2d(-(labels == 13).float()[None], 5, 1, 2)[0] > 0
    assert torch.equal(result[inside], image[inside]) and not cover[inside].any()
    assert cover[labels == 5].mean() > 0.8, "the other eye is covered"
    front = torch.ones(SIZE, SIZE)
    assert torch.equal(worn("sun glasses", labels, image, front=front)[0], image)
    result, cover = worn("beard", labels, image)
    assert cover[labels == 11].mean() < 0.3 < cover.max()


def test_earrings_hang_from_the_ears_that_are_seen():
    right = worn("earrings", a_face(more=EARS[1:], turned=30))[1]
    both = worn("earrings", a_face(more=EARS, turned=30))[1]
    assert both.sum() == pytest.approx(2 * right.sum().item(), rel=0.1)
    x, y = middle(right).tolist()
    labels = a_face(more=EARS, turned=30)
    at = edits.find_anchors(labels, its_face(labels)).in_picture("right ear")
    assert abs(x - at[0]) < 4 and 2 < y - at[1] < 0.6 * EYES_TO_MOUTH, "straight down, however the head is tilted"
    with pytest.raises(ValueError, match="there is no ear that the earrings could be laid on"):
        worn("earrings", a_face())


def test_one_of_several_wears_it_and_frames_without_a_face_stay():
    labels = torch.cat([a_face(), a_face()], 1)
    faces = sorted(find_faces(labels), key=lambda face: face.x)
    pictures = torch.rand(2, *labels.shape, 3, generator=torch.Generator().manual_seed(5))
    maps = torch.stack([labels, torch.zeros_like(labels)])
    steps = []
    result, cover = edits.try_on(
        pictures,
        edits.piece("round glasses"),
        maps,
        [faces, []],
        face=faces[1].index,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert cover[0, :, SIZE:].any() and not cover[0, :, :SIZE].any() and not cover[1].any()
    assert torch.equal(result[1], pictures[1]) and torch.equal(result[0, :, : SIZE - 20], pictures[0, :, : SIZE - 20])
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"face": 7}, "there is no face that the hat could be laid on"),
        ({"face": "each"}, "face must be 'all', 'largest' or an index"),
        ({"size": 0}, "size must be a number from 0.2 to 5"),
        ({"up": math.nan}, "up must be a number"),
        ({"shadow": 2}, "shadow must be a number from 0 to 1"),
        ({"front": torch.zeros(3, 3)}, "do not go together"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        worn("hat", a_face(), **options)


def test_nobody_is_told_of():
    nobody = torch.zeros(1, 40, 40, dtype=torch.uint8)
    for faces in ([[]], [[Face(0, 5, 5, 30, 30)]]):
        with pytest.raises(ValueError, match="there is no face that the round glasses could be laid on"):
            edits.try_on(torch.zeros(40, 40, 3), edits.piece("round glasses"), nobody, faces)
    with pytest.raises(ValueError, match="do not go together"):
        edits.try_on(torch.zeros(40, 40, 3), edits.piece("hat"), nobody, [[], []])


# ---------------------------------------------------------------------------------------------- own pictures


def test_a_picture_of_your_own_lies_where_ours_would(tmp_path):
    square = Image.new("RGBA", (500, 300))
    square.paste((255, 0, 0, 255), (100, 100, 400, 210))
    square.save(tmp_path / "mine.png")
    labels = a_face()
    for what in (tmp_path / "mine.png", str(tmp_path / "mine.png"), square):
        own = edits.piece(what)
        result, cover = edits.try_on(torch.zeros(SIZE, SIZE, 3), own, labels[None], [[its_face(labels)]])
        ours = worn("round glasses", labels)[1]
        assert wide_and_tilted(cover[0])[0] == pytest.approx(wide_and_tilted(ours)[0], rel=0.15)
        assert (middle(cover[0]) - middle(ours)).abs().max() < 4
        assert result[0, ..., 1:].max() == 0 and result[0, ..., 0].max() > 0.99


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("bowler", ValueError, "there is no piece 'bowler': choose one of round glasses"),
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
        (Image.new("RGB", (8, 8)), ValueError, "must be partly transparent"),
        (torch.zeros(8, 8, 4), ValueError, "must be partly transparent"),
        (torch.zeros(8, 8, 3), ValueError, "RGBA"),
    ],
)
def test_what_is_no_piece_is_refused(what, error, message):
    with pytest.raises(error, match=message):
        edits.piece(what)
    with pytest.raises(ValueError, match="there is no piece 'shoe'"):
        edits.piece("hat", like="shoe")


@pytest.mark.parametrize("name", ["round glasses", "earrings"])
def test_the_pieces_are_as_they_are_drawn(name):
    known, (drawn, places) = edits.piece(name), DRAWINGS[name]()
    assert (known.picture - torch.from_numpy(np.array(drawn)) / 255).abs().max() < 0.02
    assert dict(known.across) == places["across"] and known.behind == places["behind"]


# ---------------------------------------------------------------------------------------------- the command line


ON_CPU = ["--model", "lite", "--device", "cpu"]


def test_several_pieces_on_the_command_line(portrait, tmp_path, capsys):
    picture, target = shutil.copy(portrait, tmp_path / "me.jpg"), tmp_path / "out.png"
    own = tmp_path / "top-hat.png"
    square = Image.new("RGBA", (400, 300))
    square.paste((0, 0, 255, 255), (20, 20, 380, 280))
    square.save(own)
    arguments = ["--wear", "sun-glasses", "--wear", f"hat={own}", "--background", "white", "-o", str(target)]
    assert main(["edit", str(picture), *ON_CPU, *arguments]) == 0
    assert capsys.readouterr().out == f"{picture}: 1 face -> {target}\n"
    result, before = (images.as_float(images.load(path)[0]) for path in (target, picture))
    parsing = FaceParser("lite", "cpu").parse(picture)
    eyes, neck = (parsing.mask(region)[0] > 0 for region in ("eyes", "inner mouth"))
    assert result[eyes].mean() < 0.5 * before[eyes].mean()
    assert (result - before)[neck].abs().max() < 3 / 255
    assert (result[0, 0] == 1).all()
    blue = (result - torch.tensor([0.0, 0.0, 1.0])).abs().amax(-1) < 0.02
    above = parsing.mask("hair")[0].any(1).nonzero()[0]
    assert blue[:above].any(), "the hat stands out from the head, and is no background"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("bowler", "there is no piece 'bowler'"),
        ("hat=nowhere.png", "nowhere.png"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_wrong_usage_is_told(portrait, capsys, what, message):
    with pytest.raises(SystemExit) as ended:
        main(["edit", str(portrait), "--wear", what])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_picture_without_a_face_is_told(tmp_path, capsys):
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "wall.png")
    assert main(["edit", str(tmp_path / "wall.png"), *ON_CPU, "--wear", "hat", "-o", str(tmp_path / "out.png")]) == 1
    assert "wall.png: there is no face that the hat could be laid on" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
