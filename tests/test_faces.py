"""Faces in whole pictures: found, parsed each at its own scale, put together."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from faceparse_core import FaceParser, checkpoints
from faceparse_core.faces import (
    Face,
    Finder,
    Look,
    Tracker,
    are_shown,
    arranged,
    background,
    compose,
    crop_faces,
    cut,
    fills,
    find_faces,
    framing,
    from_boxes,
)
from faceparse_core.faces.frames import Found
from faceparse_core.faces.windows import connected, padded
from faceparse_core.labels import NUM_LABELS, region_ids
from faceparse_core.parsing import Details, Parsing
from faceparse_core.rendering import Window

GREY = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def lite() -> FaceParser:
    return FaceParser("lite", device="cpu")


@pytest.fixture(scope="module")
def head(portrait) -> Image.Image:
    """A face of about 100 pixels in a square of 224."""
    return Image.open(portrait).crop((112, 4, 336, 228))


@pytest.fixture(scope="module")
def group(head) -> Image.Image:
    """Three of them on a plain wall: large on the left, turned by 40 degrees in the middle, small on the right."""
    wall = Image.new("RGB", (1000, 600), (120, 132, 140))
    wall.paste(head.resize((448, 448)), (20, 80))
    tilted = head.resize((300, 300)).rotate(-40, Image.Resampling.BICUBIC, expand=True, fillcolor=(120, 132, 140))
    wall.paste(tilted, (480, 60))
    wall.paste(head.resize((170, 170)), (820, 380))
    return wall


@pytest.fixture(scope="module")
def parsed(lite, group):
    return lite.parse(group)


def middle(face: Face) -> tuple[float, float]:
    return face.x + face.width / 2, face.y + face.height / 2


def place(mask: torch.Tensor) -> tuple[float, float]:
    y, x = mask.nonzero(as_tuple=True)
    return x.float().mean().item(), y.float().mean().item()


# ---------------------------------------------------------------------------------------------- found


def test_faces_of_all_sizes_and_tilts_are_found(parsed):
    found = parsed.faces[0]
    assert [face.index for face in found] == [0, 1, 2]
    left, tilted, small = sorted(found, key=lambda face: face.x)
    assert left == found[0] and small == found[2]  # the largest first
    assert left.height > 1.8 * small.height
    assert abs(tilted.angle - left.angle - 40) < 8
    assert abs(small.angle - left.angle) < 8
    assert all(0.5 < face.score <= 1 for face in found)


def test_where_nobody_is_nothing_is_found(lite, caplog):
    noise = np.random.default_rng(0).integers(0, 255, (300, 700, 3), dtype=np.uint8)
    with caplog.at_level(logging.INFO, "faceparse"):
        parsing = lite.parse(noise)
    assert parsing.faces == [[]]
    assert torch.equal(parsing.labels, lite.parse(noise, faces="image").labels)
    told = ["no face in 1 of 1 images: what is seen in the whole picture stays"]
    assert [record.message for record in caplog.records] == told


def test_a_head_from_behind_keeps_its_hair(lite, head, monkeypatch):
    monkeypatch.setattr(Finder, "find", lambda self, images: [[] for _ in images])
    auto, whole = lite.parse(head), lite.parse(head, faces="image")
    assert auto.faces == [[]]
    assert torch.equal(auto.labels, whole.labels) and auto.mask("hair").any()
    assert torch.equal(auto.mask("hair", soft=True), whole.mask("hair", soft=True))
    assert not auto.mask("hair", face="largest").any()


def test_a_portrait_is_parsed_whole(lite, head):
    auto, whole = lite.parse(head), lite.parse(head, faces="image")
    assert torch.equal(auto.labels, whole.labels)
    ((found,), (seen,)) = auto.faces[0], whole.faces[0]
    assert math.dist(middle(found), middle(seen)) < 0.15 * seen.height
    assert 0.7 < found.height / seen.height < 1.4


class Everywhere(torch.nn.Module):
    """Sees one label wherever it looks."""

    def __init__(self, label: str):
        super().__init__()
        (self.label,) = region_ids(label)

    def forward(self, pixels):
        logits = torch.zeros(len(pixels), NUM_LABELS, pixels.shape[2] // 4, pixels.shape[3] // 4)
        logits[:, self.label] = 9
        return logits


def test_faces_are_found_whatever_network_parses_them(head, group, parsed):
    others = {label: FaceParser(checkpoints.find("lite"), "cpu", network=Everywhere(label))
              for label in ("skin", "background")}  # fmt: skip
    assert {face.box for face in others["skin"].parse(group).faces[0]} >= {face.box for face in parsed.faces[0]}
    assert torch.equal(others["skin"].parse(head).labels, others["skin"].parse(head, faces="image").labels)
    # Of which nothing is seen is no face, unless somebody says so.
    assert others["background"].parse(group).faces == others["background"].parse(head).faces == [[]]
    assert others["background"].parse(group, faces=[[face.box for face in parsed.faces[0]]]).faces[0]


def test_a_finder_sees_again_what_it_found(lite, group, parsed):
    image = torch.from_numpy(np.array(group))
    # It may have taken something else for a face, which the parser saw that it is none.
    assert {face.box for face in lite._finder.find([image])[0]} >= {face.box for face in parsed.faces[0]}
    beside = [replace(face, x=face.x + face.width // 10) for face in parsed.faces[0]]
    for again, face in zip(lite._finder.find_near(image, beside), parsed.faces[0], strict=True):
        assert again.index == face.index and math.dist(middle(again), middle(face)) < 0.05 * face.height


def test_a_face_has_a_box(parsed):
    face = parsed.faces[0][0]
    assert face.box == (face.x, face.y, face.width, face.height)


def test_order_and_smallest_size(lite, group, head, parsed):
    across = lite.parse(group, order="left to right").faces[0]
    assert [face.x for face in across] == sorted(face.x for face in across)
    assert [face.index for face in across] == [0, 1, 2]
    large = lite.parse(group, smallest=120)
    assert large.faces[0] == parsed.faces[0][:2]
    assert not large.mask("person")[0, 380:, 820:].any()
    assert lite.parse(head, smallest=200).faces == [[]]


def test_boxes_from_outside(lite, group, parsed):
    small = parsed.faces[0][2]
    # A detector's box is a little off; the face is framed by what is seen in it.
    box = {"x": small.x - 6, "y": small.y + 8, "width": small.width + 8, "height": small.height, "score": 0.75}
    parsing = lite.parse(group, faces=[[box]])
    (face,) = parsing.faces[0]
    assert math.dist(middle(face), middle(small)) < 4 and face.score == 0.75
    assert parsing.mask("nose").any() and not parsing.mask("person")[0, :, :800].any()
    # What is no face stays as it was given.
    given = lite.parse(group, faces=[(5, 5, 60, 70)]).faces[0]
    assert given == [Face(0, 5, 5, 60, 70)] and given[0].box == (5, 5, 60, 70)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("all", "'auto', 'image' or boxes"),
        ([(1, 2, 3)], "x, y, width, height"),
        ([{"x": 1, "y": 2, "width": 30}], "x, y, width, height"),
        ([(1, 2, 0, 5)], "x, y, width, height"),
        ([(float("nan"), 2, 3, 5)], "x, y, width, height"),
        ([(2000, 2, 30, 50)], "outside of its image, which has 1000x600"),
        (7, "a list of boxes"),
    ],
)
def test_wrong_boxes_are_told(lite, group, boxes, message):
    with pytest.raises(ValueError, match=message):
        lite.parse(group, faces=boxes)


def test_as_many_lists_of_boxes_as_images():
    assert from_boxes([[], [(1, 2, 3, 4)]], [(9, 9), (9, 9)]) == [[], [Face(0, 1, 2, 3, 4)]]
    with pytest.raises(ValueError, match="2 images, but lists of boxes for 1"):
        from_boxes([[(1, 2, 3, 4)]], [(9, 9), (9, 9)])


def test_a_batch_of_scenes_equals_them_one_by_one(lite, group, head):
    images = [np.array(group), np.array(head), np.zeros((300, 640, 3), np.uint8)]
    batch = lite.parse(images)
    assert [len(found) for found in batch.faces] == [3, 1, 0]
    for one, image in zip(batch, images, strict=True):
        alone = lite.parse(image)
        assert (one.labels == alone.labels).float().mean() > 0.999
        assert [middle(face) for face in one.faces[0]] == [middle(face) for face in alone.faces[0]]


# ---------------------------------------------------------------------------------------------- parsed


def test_each_face_is_parsed_with_all_its_parts(parsed):
    for face in parsed.faces[0]:
        for part in ("nose", "lips", "left eye", "right eye", "hair"):
            assert parsed.mask(part, face=face.index).any(), (face, part)
        assert math.dist(place(parsed.mask("face", face=face.index)[0]), middle(face)) < 0.1 * face.height
    assert not parsed.mask("person")[0, :40].any()


def test_masks_of_the_faces_are_those_of_all_shared_out(parsed):
    for soft in (False, True):
        shared = sum(parsed.mask("hair", soft=soft, face=index) for index in range(3))
        whole = parsed.mask("hair", soft=soft)
        # A patch on the suit, seen as hair, is nobody's: no part of any face's mask, and outside their boxes.
        nobodys = shared != whole
        assert not shared[nobodys].any() and whole[nobodys].sum() < 0.02 * whole.sum()
        for face in parsed.faces[0]:
            x, y, width, height = (round(side) for side in face.box)
            assert not nobodys[0, y : y + height, x : x + width].any()
    assert torch.equal(parsed.mask("lips", face="largest"), parsed.mask("lips", face=0))
    assert not parsed.mask("hair", face=3).any()


@pytest.mark.parametrize("face", ["smallest", -1, 1.5, None])
def test_a_wrong_face_is_told(parsed, face):
    with pytest.raises(ValueError, match="'all', 'largest' or an index"):
        parsed.mask("hair", face=face)


def test_soft_masks_of_a_scene_add_up(parsed):
    everything = parsed.masks(["person", "background"], soft=True).sum(0)
    assert (everything - 1).abs().max() < 1e-4


def test_a_scene_goes_where_a_parsing_goes(lite, group, parsed):
    twice = parsed.repeated(2)
    assert torch.equal(twice[1].mask("hair", soft=True, face=1), parsed.mask("hair", soft=True, face=1))
    moved = parsed.to("cpu")
    assert moved.faces == parsed.faces and torch.equal(moved.labels, parsed.labels)
    empty = lite.parse(np.zeros((600, 1000, 3), np.uint8))
    joined = type(parsed).joined([parsed, empty])
    held = joined.where_no_face("last frame's")
    assert torch.equal(held.labels[1], parsed.labels[0]) and held.faces[1] == parsed.faces[0]
    assert parsed.figures()[0]["faces"][1]["angle"] == parsed.faces[0][1].angle


# ---------------------------------------------------------------------------------------------- pieces


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1))
def test_connected_pieces_are_scipys(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    pieces, count = connected(mask)
    expected, as_many = ndimage.label(mask, np.ones((3, 3)))
    assert count == as_many
    pairs = np.unique(np.stack([pieces.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(expected))


@given(angle=st.floats(-180, 180), x=st.integers(-20, 90), y=st.integers(-20, 70))
@settings(max_examples=30)
def test_what_is_cut_lies_where_the_window_says(angle, x, y):
    """A picture whose colours are its coordinates: the middle of a cut is the middle of its window."""
    across, down = torch.meshgrid(torch.arange(100.0) + 0.5, torch.arange(80.0) + 0.5, indexing="xy")
    image = torch.stack([across / 100, down / 100, torch.zeros_like(across)], dim=-1)
    window = Window(x, y, 40, 40, angle)
    piece = cut(image, window, 80, GREY)
    assert piece.shape == (80, 80, 3)
    centre = piece[38:42, 38:42].mean((0, 1)) * 100
    if 3 < window.centre[0] < 97 and 3 < window.centre[1] < 77:
        assert math.dist(centre[:2].tolist(), window.centre) < 0.5
        # To the right in the piece is along the window's own axis.
        if 15 < window.centre[0] < 85 and 15 < window.centre[1] < 65:
            step = (piece[40, 56] - piece[40, 24])[:2] * 100
            turned = math.degrees(math.atan2(step[1].item(), step[0].item()))
            assert abs((turned - angle + 180) % 360 - 180) < 4


def test_padding():
    image = torch.arange(12, dtype=torch.uint8).view(2, 2, 3)
    field = padded(image, -1, 1, (4, 3), (1.0, 0.0, 0.0))
    assert torch.equal(field[1:3, 0], image[:, 1])
    assert (field[0] == torch.tensor([255, 0, 0])).all() and (field[:, 1:] == torch.tensor([255, 0, 0])).all()


@pytest.mark.parametrize("part", [(), region_ids("eyes"), region_ids("nose"), region_ids("mouth_area")])
def test_a_face_of_which_nobody_is_sure_shows_all_its_parts(part):
    logits = torch.full((NUM_LABELS, 32, 32), -5.0)
    logits[1] = 5
    for ids, rows in ((region_ids("eyes"), 12), (region_ids("nose"), 16), (region_ids("mouth_area"), 20)):
        if ids != part:
            logits[ids[0], rows : rows + 2, 14:18] = 9
    look, place = Look(logits, Window(0, 0, 200, 200)), (0, 50, 50, 100, 100)
    unsure, sure = Face(*place, score=0.3), Face(*place, score=0.45)
    assert are_shown([unsure, sure], [look, look]) == [not part, True]


def test_a_window_ends_in_what_lies_under_it():
    """Hair all over a picture and in the window of a face alike: no trace of the window's border."""
    hair = torch.full((NUM_LABELS, 32, 32), -5.0)
    hair[13] = 5
    window = Window(40, 40, 80, 80, 30.0)
    scene = compose(Look(hair, Window(0, 0, 160, 160)), (160, 160), [Look(hair, window)])
    for look in scene.looks:
        assert (look.logits.max(0).indices == 13).all()
    assert len(scene.looks) == 2
    for label in (0, 13):
        assert torch.allclose(scene.looks[1].logits[label], hair[label, 0, 0], atol=1e-4)


def test_what_is_too_far_from_a_face_to_be_what_it_looks_like_is_background():
    skin, face = torch.full((NUM_LABELS, 40, 40), -5.0), Window(80, 80, 40, 40)
    skin[1] = 5
    skin[3, 24:] = 8  # "glasses" below the face, down to the border
    scene = compose(Look(skin, Window(0, 0, 200, 200)), (200, 200), [Look(skin[:, 16:24, 16:24], face)])
    assert not any((look.logits.max(0).indices == 3).any() for look in scene.looks)
    assert any((look.logits.max(0).indices == 1).any() for look in scene.looks)


def hair_beside_a_face(rows: slice):
    """The hair of a head, and other hair in these rows of cells."""
    whole = torch.full((NUM_LABELS, 40, 40), -5.0)
    whole[0] = 5
    for there in (slice(8, 16), rows):
        whole[0, there, 8:16], whole[13, there, 8:16] = -5, 5
    face = Look(whole[:, 8:16, 8:16], Window(40, 40, 40, 40))
    return compose(Look(whole, Window(0, 0, 200, 200)), (200, 200), [face])


def test_what_does_not_hang_together_with_a_face_is_background():
    scene = hair_beside_a_face(slice(30, 33))  # too little to be a head
    reach = max(look.window.y + look.window.height for look in scene.looks)
    assert 80 <= reach < 150


def test_somebody_turned_away_keeps_the_hair_and_belongs_to_no_face():
    scene = hair_beside_a_face(slice(30, 36))
    (whole, _) = scene.looks
    assert whole.window.y + whole.window.height >= 180
    assert (scene.owner[30:36, 8:16] == 1).all() and (scene.owner[8:16, 8:16] == 0).all()
    look = Look(background(torch.device("cpu")), Window(0, 0, 200, 200))
    parsing = Parsing([look.logits], [look.window], [(200, 200)], details=[Details((Face(0, 50, 50, 20, 20),), scene)])
    both, one = (parsing.mask("hair", face=face)[0] for face in ("all", 0))
    assert both[155:175, 45:75].all() and not one[155:175].any()
    assert torch.equal(both[:100], one[:100]) and one.any()


def test_faces_in_a_label_map_are_told_apart():
    labels = torch.zeros(200, 400, dtype=torch.uint8)
    for left in (20, 220):
        labels[40:160, left : left + 100] = 1
        labels[90:115, left + 40 : left + 60] = 2
        labels[70:80, left + 60 : left + 80], labels[70:80, left + 20 : left + 40] = 4, 5
        labels[130:140, left + 30 : left + 70] = 11
    assert [(f.x, f.y, f.width, f.height, f.angle) for f in find_faces(labels)] == [
        (20, 40, 100, 120, 0),
        (220, 40, 100, 120, 0),
    ]
    (face,) = find_faces(labels[:, :200])
    assert (face.x, face.y, face.width, face.height) == (20, 40, 100, 120)
    upside_down = find_faces(labels[:, :200].flip(0, 1).contiguous())[0]
    assert abs(upside_down.angle) == 180


def test_a_window_frames_its_face():
    face = Face(0, 100, 100, 90, 120)
    window = framing(face)
    assert window.centre == (145, 160) and window.width == window.height == 240
    assert fills(face, (280, 280)) and not fills(face, (600, 600))
    tilted = framing(Face(0, 100, 100, 106, 106, angle=45.0))  # the box of that ellipse, turned
    assert tilted.angle == 45 and abs(tilted.width - 240) < 5


def test_faces_can_be_ordered():
    some = [Face(0, 50, 0, 10, 10, score=0.5), Face(1, 0, 0, 5, 5, score=0.9), Face(2, 90, 0, 7, 7, score=0.7)]
    assert [face.x for face in arranged(some, "left to right", 0)] == [0, 50, 90]
    assert [face.x for face in arranged(some, "score", 0)] == [0, 90, 50]
    assert [(face.index, face.x) for face in arranged(some, "size", 6)] == [(0, 50), (1, 90)]


# ---------------------------------------------------------------------------------------------- videos


@pytest.fixture(scope="module")
def shaky(group) -> list[np.ndarray]:
    """Frames of a still scene: noise, and now and then a step of a pixel."""
    rng = np.random.default_rng(0)
    still = np.array(group.resize((800, 480))).astype(float)
    frames = []
    for _ in range(5):
        moved = np.roll(still, rng.integers(-1, 2, 2), (0, 1))
        frames.append((moved + rng.normal(0, 4, moved.shape)).clip(0, 255).astype(np.uint8))
    return frames


def flicker(labels: torch.Tensor) -> float:
    return (labels[1:] != labels[:-1]).float().mean().item()


@pytest.fixture(scope="module")
def quick() -> FaceParser:
    """What is said of videos holds at any resolution."""
    return FaceParser("lite", device="cpu", resolution=256)


@pytest.fixture(scope="module")
def tracked(quick, shaky) -> Parsing:
    return quick.parse(shaky, track=True)


def test_tracked_frames_hold_still(quick, shaky, tracked):
    assert flicker(tracked.labels) < 0.5 * flicker(quick.parse(shaky).labels)
    assert [[face.index for face in found] for found in tracked.faces] == [[0, 1, 2]] * 5


def test_tracked_crops_hold_still(quick, shaky, tracked):
    def steps(parsing: Parsing) -> float:
        places = crop_faces(shaky, parsing, size=32)[2].places
        where = [[(place.x, place.y) for place in places if place.image == frame] for frame in range(len(shaky))]
        return float(np.mean([min(math.dist(at, was) for was in before)
                              for before, now in itertools.pairwise(where) for at in now]))  # fmt: skip

    assert steps(tracked) < 0.4 * steps(quick.parse(shaky))


def test_boxes_of_tracked_faces_hold_still_and_follow():
    """What the finder says is never quite the same twice; a face that goes is followed at once."""
    rng = np.random.default_rng(1)
    frame = torch.zeros(400, 600, 3, dtype=torch.uint8)
    noisy = [Face(0, *(np.array([100, 120, 150, 200]) + rng.integers(-6, 7, 4))) for _ in range(30)]
    tracker = Tracker()

    def followed(faces: list[Face]) -> np.ndarray:
        found = [Found([face]) for face in faces]
        return np.array([one.faces[0].box for one in tracker.follow([frame] * len(faces), found)])

    boxes = followed(noisy)
    steps = np.abs(np.diff([face.box for face in noisy], axis=0)).mean()
    assert np.abs(np.diff(boxes, axis=0)).mean() < 0.35 * steps
    assert np.abs(boxes[8:].mean(0) - (100, 120, 150, 200)).max() < 3
    (leapt,) = followed([Face(0, 180, 120, 150, 200)])
    assert abs(leapt[0] - 180) <= 1


def test_a_face_keeps_its_index_and_others_get_new_ones(quick, head):
    """It walks from left to right while another comes in; then the scene changes."""
    frames = []
    for step in range(4):
        wall = Image.new("RGB", (900, 400), (120, 132, 140))
        wall.paste(head, (20 + 40 * step, 100))
        if step >= 2:  # larger, and so the first if nobody remembers
            wall.paste(head.resize((340, 340)), (500, 30))
        frames.append(np.array(wall))
    other = Image.new("RGB", (900, 400), (10, 20, 90))
    other.paste(head.resize((300, 300)), (300, 50))
    parsing = quick.parse([*frames, np.array(other)], track=True)
    indices = [{face.index: face.x for face in found} for found in parsing.faces]
    assert [sorted(found) for found in indices] == [[0], [0], [0, 1], [0, 1], [0]]
    assert [found[0] for found in indices[:4]] == sorted(found[0] for found in indices[:4])
    assert parsing.mask("hair", face=0)[3, :, :400].any() and not parsing.mask("hair", face=0)[3, :, 500:].any()
    assert parsing.mask("hair", face="largest")[3, :, 500:].any()
    assert not parsing.mask("person")[4, :, :250].any()  # nothing of the last scene


def test_a_video_may_come_in_pieces(quick, shaky, tracked):
    tracker = Tracker()
    pieces = [quick.parse(shaky[:2], track=tracker), quick.parse(shaky[2:], track=tracker)]
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), tracked.labels)


def test_tracked_portraits_hold_still(quick, head):
    rng = np.random.default_rng(0)
    frames = [(np.array(head) + rng.normal(0, 6, (224, 224, 3))).clip(0, 255).astype(np.uint8) for _ in range(4)]
    for faces_ in ("auto", "image"):
        tracked = quick.parse(frames, track=True, faces=faces_)
        assert all(details is None or details.scene is None for details in tracked.details)
        assert flicker(tracked.labels) < 0.5 * flicker(quick.parse(frames, faces=faces_).labels)


def test_a_face_that_is_overlooked_for_a_frame_is_looked_for_where_it_was(quick, shaky, monkeypatch):
    find, frame = Finder.find, itertools.count()

    def blink(self, images):
        return [faces[1:] if next(frame) % len(shaky) == 2 else faces for faces in find(self, images)]

    monkeypatch.setattr(Finder, "find", blink)
    assert [len(found) for found in quick.parse(shaky).faces] == [3, 3, 2, 3, 3]
    assert [len(found) for found in quick.parse(shaky, track=True).faces] == [3, 3, 3, 3, 3]
