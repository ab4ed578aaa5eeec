"""Regions drawn on faces: their place, their sides, tilted faces, missing parts, and expressions that hold them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from faceparse_core import images as pictures
from faceparse_core.faces import Face, draw, extras, face_axes, find_faces
from faceparse_core.labels import DRAWN, DRAWN_GROUPS, GROUPS, region_ids, resolve
from faceparse_core.parser import FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window
from tests.drawn import EYES_TO_MOUTH, SIZE, a_face

NAMES = [*DRAWN, *DRAWN_GROUPS]


def parsed(labels: torch.Tensor) -> Parsing:
    """A parsing that is certain of these labels."""
    logits = torch.full((19, *labels.shape), -12.0).scatter_(0, labels.long()[None], 12.0)
    height, width = labels.shape
    return Parsing([logits], [Window(0, 0, width, height)], [(height, width)])


def centre(mask: torch.Tensor, turned: float = 0) -> tuple[float, float]:
    """The centre of a mask [H, W] in units from the eyes of ``a_face``: towards the subject's left, and down."""
    y, x = mask.nonzero(as_tuple=True)
    x, y = x.float().mean().item() + 0.5 - SIZE / 2, y.float().mean().item() + 0.5 - SIZE / 2
    sine, cosine = math.sin(math.radians(turned)), math.cos(math.radians(turned))
    return (x * cosine + y * sine) / EYES_TO_MOUTH, (y * cosine - x * sine) / EYES_TO_MOUTH + 0.4


# Where the centre of a region lies on a face as the portraits have it: (u, v), from the eyes in units to the mouth.
PLACES = {
    "forehead": (0, -0.6),
    "left cheek": (0.63, 0.65),
    "right cheek": (-0.63, 0.65),
    "chin": (0, 1.5),
    "under eyes": (0, 0.14),
    "t-zone": (0, -0.05),
    "cheeks": (0, 0.65),
}


# ---------------------------------------------------------------------------------------------- on the face


@pytest.mark.parametrize("turned", [0, 20, -45, 90, 180, -135])
def test_regions_follow_the_face(turned):
    labels = a_face(turned=turned)
    (face,) = find_faces(labels)
    axes = face_axes(labels, face)
    assert abs((axes.angle - turned + 180) % 360 - 180) < 1.5
    assert axes.unit == pytest.approx(EYES_TO_MOUTH, rel=0.03)
    parsing = parsed(labels)
    for name, place in PLACES.items():
        assert centre(parsing.mask(name)[0], turned) == pytest.approx(place, abs=0.12), name
    x, y = axes.to_picture(*axes.to_face(np.array([3.0, 70.0]), np.array([5.0, -9.0])))
    assert x == pytest.approx([3, 70]) and y == pytest.approx([5, -9])


@pytest.mark.parametrize("soft", [False, True])
def test_regions_lie_inside_of_their_labels_and_leave_the_parts_alone(soft):
    labels = a_face()
    parsing = parsed(labels)
    for name in NAMES:
        mask = parsing.mask(name, soft=soft)[0]
        inside = sum(labels == label for label in DRAWN[DRAWN_GROUPS.get(name, (name,))[0]]) > 0
        assert mask.dtype == torch.float32 and mask.min() >= 0 and mask.max() <= 1
        assert mask[~inside].max() < 1e-4, name
        assert 0.01 < mask.mean() / (labels == 1).float().mean() < 0.6
        assert soft or set(mask.unique().tolist()) == {0, 1}
    assert parsing.mask("t-zone")[0][labels == 2].mean() > 0.8, "nearly all of the nose"


def test_the_soft_edge_is_a_few_per_cent_of_the_face():
    labels = a_face()
    hard, soft = (parsed(labels).mask("left cheek", soft=soft)[0] for soft in (False, True))
    edge = ((soft > 0.1) & (soft < 0.9)).sum(1).max().item() / 2  # it is crossed twice in a row of pixels
    assert 0.02 < edge / (2.7 * EYES_TO_MOUTH) < 0.12
    assert ((soft >= 0.5).float() - hard).abs().mean() < 1e-3


def test_left_and_right_mirror():
    """Of a mirrored face with the labels of its sides exchanged, the cheeks are exchanged and mirrored."""
    labels = a_face(turned=15)
    mirrored = labels.flip(1).clone()
    for a, b in ((4, 5), (6, 7)):
        mirrored[labels.flip(1) == a], mirrored[labels.flip(1) == b] = b, a
    one, other = parsed(labels), parsed(mirrored)
    for name, same in (("left cheek", "right cheek"), ("forehead", "forehead"), ("chin", "chin")):
        assert (one.mask(name) - other.mask(same).flip(2)).abs().mean() < 0.003


def test_cheeks_are_told_apart_by_place_not_by_the_labels_of_the_eyes():
    labels = a_face()
    exchanged = labels.clone()
    exchanged[labels == 4], exchanged[labels == 5] = 5, 4
    assert torch.equal(parsed(exchanged).mask("left cheek"), parsed(labels).mask("left cheek"))


@pytest.mark.parametrize(
    ("without", "glasses"),
    [
        (("l_eye", "l_brow"), False),  # hair over an eye
        (("l_brow", "r_brow"), False),  # a fringe
        (("l_eye", "r_eye"), True),  # sunglasses
        (("l_eye", "r_eye", "l_brow", "r_brow"), True),
        (("u_lip", "l_lip"), False),  # a hand before the mouth
        (("nose",), False),
    ],
    ids=["an eye", "brows", "eyes", "eyes and brows", "mouth", "nose"],
)
def test_what_is_hidden_is_filled_in(without, glasses):
    labels = a_face(without, glasses)
    drawing = draw(labels, Face(0, 60, 50, 120, 170))
    whole = draw(a_face(), Face(0, 60, 50, 120, 170))
    for name in DRAWN:
        masks = []
        for one in (drawing, whole):
            mask = torch.zeros(SIZE, SIZE)
            region = resolve(name)
            for _, there, extra in extras(region, [one], slice(0, SIZE), slice(0, SIZE), soft=False):
                mask[there] = extra
            masks.append(mask.bool())
        overlap = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert overlap > 0.7, (name, overlap)


def test_what_glasses_cover_is_no_skin():
    parsing = parsed(a_face(("l_eye", "r_eye"), glasses=True))
    assert parsing.mask("under eyes").sum() < 0.5 * parsed(a_face()).mask("under eyes").sum()


@pytest.mark.parametrize("without", [("nose", "u_lip", "l_lip"), ("l_eye", "r_eye", "nose"), ("l_eye", "nose")])
def test_too_little_of_a_face_has_no_regions(without):
    labels = a_face(without)
    assert face_axes(labels, Face(0, 60, 50, 120, 170)) is None and draw(labels, Face(0, 60, 50, 120, 170)) is None


def test_pictures_without_a_face_have_empty_regions():
    parsing = parsed(torch.zeros(64, 64, dtype=torch.uint8))
    assert not parsing.mask("forehead").any() and not parsing.mask("t-zone", soft=True).any()
    grey = Parsing(parsing.logits, parsing.windows, parsing.sizes, filled=[0])
    assert grey.mask("forehead").all() and grey.mask("chin", soft=True).all()


def test_a_neighbour_changes_nothing():
    """A head beside this one, leaning over, its mouth within the reach of a generous box."""
    labels = torch.zeros(SIZE, 2 * SIZE, dtype=torch.uint8)
    labels[:, :SIZE] = a_face()
    box = Face(0, 40, 20, 160, 200)
    alone = face_axes(labels, box)
    behind = labels[:, 130 : 130 + SIZE]
    behind[behind == 0] = a_face(turned=40)[behind == 0]
    assert (labels[:, 180:220] == 11).any()
    assert face_axes(labels, box) == alone


@given(
    x=st.integers(-60, 300), y=st.integers(-60, 300), width=st.integers(1, 400), height=st.integers(1, 400),
    step=st.sampled_from([1, 2, 7, 30]),
)  # fmt: skip
def test_any_box_and_any_size(x, y, width, height, step):
    """Boxes from elsewhere, faces cut by the border, faces of a few pixels."""
    labels = a_face(turned=30)[::step, ::step]
    drawing = draw(labels, Face(0, x, y, width, height))
    if drawing:
        high, wide = labels.shape
        assert 0 <= drawing.x < drawing.x + drawing.width <= wide
        assert 0 <= drawing.y < drawing.y + drawing.height <= high
        for shape in drawing.shapes.values():
            assert shape.isfinite().all() and shape.min() >= 0 and shape.max() <= 1


@given(seed=st.integers(0, 10_000), cell=st.sampled_from([1, 3, 20]), kinds=st.integers(2, 6))
def test_label_maps_that_are_no_faces(seed, cell, kinds):
    chance = np.random.default_rng(seed)
    labels = chance.choice(chance.choice([1, 2, 3, 4, 5, 6, 7, 10, 11, 12], kinds), (60 // cell, 60 // cell))
    labels = torch.from_numpy(np.kron(labels, np.ones((cell, cell))).astype(np.uint8))
    drawing = draw(labels, Face(0, 0, 0, 60, 60))
    assert drawing is None or all(shape.isfinite().all() for shape in drawing.shapes.values())


# ---------------------------------------------------------------------------------------------- in expressions


@pytest.fixture(scope="module")
def portrait_parsing(portrait) -> Parsing:
    image = pictures.load(portrait)[0][4:228, 112:336]
    return FaceParser("lite", "cpu", "fp32").parse([image, image])


@pytest.mark.parametrize("soft", [False, True])
def test_expressions_mix_labels_and_drawn_regions(portrait_parsing, soft):
    def mask(region):
        return portrait_parsing.mask(region, soft=soft)

    same = dict(atol=1e-6, rtol=0)
    for name in NAMES:
        assert mask(name)[0].sum() > 20 and torch.equal(mask(name)[0], mask(name)[1])
    assert torch.allclose(mask("skin - forehead") + mask("forehead"), mask("skin"), **same)
    assert torch.allclose(mask("forehead + nose"), mask("forehead") + mask("nose"), **same)
    assert torch.allclose(mask("face - under eyes - cheeks") + mask("under eyes + cheeks"), mask("face"), **same)
    assert torch.allclose(mask("t-zone - nose") + mask("nose") - mask("nose - t-zone"), mask("t-zone"), **same)
    assert torch.equal(mask("cheeks"), mask("left cheek + right cheek"))
    assert torch.equal(mask("viewer left cheek"), mask("right cheek"))
    assert torch.equal(mask("forehead - skin + chin"), mask("chin"))
    for plain in ("face + forehead", "skin - chin + chin + face", "chin - skin + face"):
        assert torch.equal(mask(plain), mask("face"))
    together = ["hair", "forehead", "skin - chin", "t-zone - forehead"]
    for one, name in zip(portrait_parsing.masks(together, soft=soft), together, strict=True):
        assert torch.equal(one, mask(name))


def test_a_face_in_a_big_picture_is_the_same_but_larger(portrait_parsing):
    one = portrait_parsing[0]
    big = Parsing(one.logits, [Window(300, 100, 896, 896)], [(1100, 1300)])
    for soft in (False, True):
        small = one.mask("cheeks + t-zone", soft=soft)
        part = big.mask("cheeks + t-zone", soft=soft)[:, 100:996, 300:1196]
        small = torch.nn.functional.interpolate(small[None], size=(896, 896), mode="bilinear")[0]
        assert (small - part).abs().mean() < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_names_of_regions(name):
    for spelt in (name.upper(), name.replace(" ", "_"), name.replace(" ", "-"), f" {name.replace('-', ' ')} "):
        assert resolve(spelt) == resolve(name)
    assert resolve(name).shapes == DRAWN_GROUPS.get(name, (name,))
    assert resolve(f"face-{name}").ids == GROUPS["face"]
    with pytest.raises(ValueError, match="drawn on faces"):
        region_ids(name)
    with pytest.raises(ValueError, match="selects nothing"):
        resolve(f"{name} - {name}")
    with pytest.raises(ValueError, match="selects nothing"):
        resolve(f"{name} - face")


def test_names_that_are_nearly_right():
    for wrong, right in (
        ("forhead", "forehead"),
        ("cheek", "left cheek"),
        ("tzon", "t-zone"),
        ("dark circle", "under"),
    ):
        with pytest.raises(ValueError, match=f"did you mean .*{right}"):
            resolve(wrong)


def test_tilted_portraits_get_tilted_regions(portrait):
    """The same face in a picture that was turned: the regions are turned with it."""
    image = Image.open(portrait).convert("RGB").crop((112, 4, 336, 228))
    parser = FaceParser("lite", "cpu", "fp32")
    upright = parser.parse(image).mask("forehead + cheeks + chin")[0]
    turned = parser.parse(image.rotate(-20, Image.BICUBIC)).mask("forehead + cheeks + chin")[0]
    back = np.asarray(pictures.to_pil(turned).rotate(20)) > 127
    overlap = (back & upright.bool().numpy()).sum() / (back | upright.bool().numpy()).sum()
    assert overlap > 0.7
