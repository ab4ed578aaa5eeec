"""Make-up and skin: what is put on whom, in which proportion, that nothing else changes, and looks as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core import FaceParser, edits, images, masks
from faceparse_core.cli import main
from faceparse_core.edits.colours import lab, to_oklab
from faceparse_core.edits.eyes import eyes, irises
from faceparse_core.edits.sitter import sitters
from faceparse_core.faces import Face
from faceparse_core.labels import region_ids

SAMPLES = Path(__file__).parents[1] / "samples"
# Of each step one that is seen.
STEPS = {
    "foundation": {"strength": 1, "colour": "#a87860"},
    "blush": {"colour": "#d0305a", "strength": 1},
    "eyeshadow": {"colour": "#3050c0", "crease": "#102040", "strength": 1},
    "eyeliner": {"colour": "black", "strength": 1, "wing": 1, "lower": 1},
    "brows": {"colour": "#201008", "strength": 1},
    "irises": {"colour": "#2080d0", "strength": 1},
    "lipstick": {"colour": "#a01020", "strength": 1},
    "lip_liner": {"colour": "#300008", "strength": 1},
    "teeth": {"strength": 1},
}
# Where it may be seen.
WHERE = {
    "foundation": "skin + nose",
    "blush": "skin + nose",
    "eyeshadow": "skin + nose",
    "eyeliner": "skin + nose + eyes",
    "brows": "brows + skin",
    "irises": "eyes",
    "teeth": "mouth",
}


@pytest.fixture(scope="module")
def closeup():
    image = images.resize(images.load(SAMPLES / "closeup.jpg")[0], (320, 320)).float() / 255
    return image, FaceParser("lite", "cpu").parse(image)


def drawn_face(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Face]:
    """A face as a label map that is ``size`` high, in a picture of noise about the colours of its parts."""
    side = 2 * size
    y, x = (torch.arange(side) + 0.5 - size)[:, None] / size, (torch.arange(side) + 0.5 - size) / size
    labels = torch.zeros(side, side, dtype=torch.uint8)

    def ellipse(label: int, cx: float, cy: float, rx: float, ry: float) -> None:
        labels[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1] = label

    ellipse(13, 0, -0.1, 0.5, 0.6)
    ellipse(1, 0, 0, 0.38, 0.5)
    ellipse(2, 0, 0.08, 0.08, 0.13)
    for eye, brow, cx in ((5, 7, -0.17), (4, 6, 0.17)):
        ellipse(eye, cx, -0.06, 0.075, 0.03)
        ellipse(brow, cx, -0.16, 0.1, 0.022)
    ellipse(11, 0, 0.27, 0.13, 0.045)
    ellipse(12, 0, 0.295, 0.12, 0.05)
    ellipse(10, 0, 0.28, 0.09, 0.018)
    colours = torch.full((19, 3), 0.5)
    for ids, colour in {
        (1, 2): (0.80, 0.62, 0.52), (4, 5): (0.9, 0.9, 0.9), (6, 7): (0.3, 0.2, 0.15), (10,): (0.85, 0.8, 0.65),
        (11, 12): (0.7, 0.4, 0.4), (13,): (0.2, 0.15, 0.1),
    }.items():  # fmt: skip
        colours[list(ids)] = torch.tensor(colour)
    noise = torch.randn(side, side, 1, generator=torch.Generator().manual_seed(seed)) * 0.02
    image = (colours[labels.long()] + noise).clamp(0, 1)
    # Irises with pupils.
    for cx in (-0.17, 0.17):
        away = (((x - cx) ** 2 + (y + 0.06) ** 2).sqrt())[..., None]
        image = torch.where(
            (away < 0.03) & (labels == 4).logical_or(labels == 5)[..., None], torch.tensor([0.35, 0.25, 0.15]), image
        )
        image = torch.where(away < 0.01, torch.tensor([0.03, 0.03, 0.03]), image)
    return image, labels, Face(0, size - round(0.38 * size), size // 2, round(0.76 * size), size)


def isin(labels: torch.Tensor, region: str) -> torch.Tensor:
    return torch.isin(labels, torch.tensor(region_ids(region), dtype=torch.uint8))


# ---------------------------------------------------------------------------------------------- nothing else


@pytest.mark.parametrize("step", STEPS)
def test_a_step_changes_its_parts_and_nothing_else_of_the_picture(step, closeup):
    image, parsing = closeup
    made_up = edits.make_up(image, parsing.labels, parsing.faces, {step: STEPS[step]})[0]
    labels = parsing.labels[0]
    if step in WHERE:
        allowed = isin(labels, WHERE[step])
    else:  # the edge of the lips follows the picture, but not far
        allowed = masks.grown(isin(labels, "lips")[None].float(), 0.2 * 70)[0] > 0
        allowed &= ~isin(labels, "hair + mouth + background")
    assert torch.equal(made_up[~allowed], image[~allowed])
    assert (made_up - image).abs().amax() > 0.02, step
    assert made_up.min() >= 0 and made_up.max() <= 1 and not made_up.isnan().any()


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["bytes", "floats"]),
    box=st.tuples(st.integers(-10, 30), st.integers(-10, 30), st.integers(1, 40), st.integers(1, 40)),
    step=st.sampled_from(list(STEPS)),
)
def test_whatever_the_labels_nothing_but_faces_changes(seed, size, kind, box, step):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, *size, 3, generator=generator)
    if kind == "bytes":
        image = (image * 255).round().to(torch.uint8)
    blocks = torch.randint(0, 19, (2, -(-size[0] // 4), -(-size[1] // 4)), generator=generator)
    labels = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]].to(torch.uint8)
    faces = [[Face(0, *box)], []]
    before = images.as_float(image)
    for result in (
        edits.make_up(image, labels, faces, {step: STEPS[step]}),
        edits.smooth_skin(image, labels, faces, smooth=1, spots=1, shine=1, under_eyes=1),
    ):
        assert torch.equal(result[1], before[1])
        outside = isin(labels[0], "hair + background + ears + neck + clothing + eyeglasses + hat")
        assert torch.equal(result[0][outside], before[0][outside])
        assert result.min() >= 0 and result.max() <= 1 and not result.isnan().any()
    smoothed = edits.smooth_skin(image, labels, faces, smooth=1, spots=1, shine=1, under_eyes=1)
    outside = ~isin(labels, "skin + nose")
    assert torch.equal(smoothed[outside], before[outside])


def test_no_strength_changes_nothing(closeup):
    image, parsing = closeup
    for result in (
        edits.make_up(image, parsing.labels, parsing.faces, STEPS, strength=0),
        edits.make_up(
            image, parsing.labels, parsing.faces, {name: {**step, "strength": 0} for name, step in STEPS.items()}
        ),
        edits.make_up(image, parsing.labels, parsing.faces, {}),
        edits.smooth_skin(image, parsing.labels, parsing.faces, smooth=0, spots=0, shine=0, under_eyes=0),
    ):
        assert torch.equal(result[0], image)


def test_one_of_several_and_progress():
    image, labels, face = drawn_face(60)
    pair = torch.cat([image, image], 1)
    both = torch.cat([labels, labels], 1)
    second = Face(1, face.x + 120, face.y, face.width, face.height)
    told = []
    result = edits.make_up(
        pair, both, [[face, second]], {"lipstick": STEPS["lipstick"]}, face=1, progress=lambda *at: told.append(at)
    )[0]
    assert torch.equal(result[:, :120], image) and (result[:, 120:] - image).abs().max() > 0.1 and told == [(1, 1)]
    alone = edits.make_up(image, labels, [[face]], {"lipstick": STEPS["lipstick"]})[0]
    assert torch.allclose(result[:, 120:], alone, atol=0.02)  # each once, though they stand close together
    assert torch.equal(edits.make_up(pair, both, [[face, second]], "rose", face=2)[0], pair)


# ---------------------------------------------------------------------------------------------- what is seen


def test_lipstick_has_the_colour_and_its_finish_shines(closeup):
    image, parsing = closeup
    lips = masks.grown(parsing.mask("lips"), -2)[0] > 0
    light = {}
    for finish in edits.FINISHES:
        step = {"lipstick": {"colour": "#a01020", "finish": finish, "strength": 1}}
        made_up = edits.make_up(image, parsing.labels, parsing.faces, step)[0]
        found, wanted = to_oklab(made_up[lips]), lab("#a01020")
        away = (torch.atan2(found[:, 2], found[:, 1]) - torch.atan2(wanted[2], wanted[1])).abs()
        assert away.median() < 0.12
        light[finish] = float(torch.quantile(found[:, 0], 0.98) - found[:, 0].median())
    before = to_oklab(image[lips])[:, 0]
    own = float(torch.quantile(before, 0.98) - before.median())
    assert light["matte"] < 0.7 * own < light["satin"] < light["gloss"] and light["gloss"] > own


def test_teeth_become_lighter_and_less_yellow_and_the_tongue_stays():
    image, labels, face = drawn_face(240)
    tongue = (labels == 10) & (torch.arange(480) > 240)
    image[tongue] = torch.tensor([0.72, 0.38, 0.38])
    white = edits.make_up(image, labels, [[face]], {"teeth": {"strength": 1}})[0]
    teeth = masks.grown(((labels == 10) & ~tongue)[None].float(), -2)[0] > 0
    before, after = to_oklab(image[teeth]), to_oklab(white[teeth])
    assert after[:, 2].mean() < 0.4 * before[:, 2].mean() and after[:, 0].mean() > before[:, 0].mean() + 0.02
    assert (white - image)[tongue].abs().max() < 0.02


def test_irises_are_found_and_pupils_stay():
    image, labels, face = drawn_face(300)
    (sitter,) = sitters(image, labels, [face])
    both = list(irises(sitter, list(eyes(sitter))))
    assert len(both) == 2
    for eye, found in both:
        x, y = found.x + (300 - sitter.labels.shape[1] / 2), found.y + sitter_top(face)
        assert abs(x - (300 + eye.side * 0.17 * 300)) < 4 and abs(y - (300 - 0.06 * 300)) < 4
    blue = edits.make_up(image, labels, [[face]], {"irises": STEPS["irises"]})[0]
    middle = 300 - 18
    pupil, coloured, white = (blue[middle, 300 + 51 + dx] for dx in (0, 6, 17))
    assert pupil.max() < 0.1 and coloured[2] > coloured[0] + 0.1 and torch.equal(white, image[middle, 300 + 51 + 17])


def sitter_top(face: Face) -> int:
    return int(face.y - 0.15 * face.height)


@pytest.mark.parametrize("step", ["eyeliner", "eyeshadow", "blush", "lip_liner", "brows"])
def test_it_is_as_large_as_the_face(step):
    shares = []
    for size in (100, 300):
        image, labels, face = drawn_face(size)
        made_up = edits.make_up(image, labels, [[face]], {step: STEPS[step]})[0]
        shares.append(float((made_up - image).abs().amax(2).sum()) / size**2)
    assert shares[0] == pytest.approx(shares[1], rel=0.3)


def test_eyeshadow_lies_between_eye_and_brow_and_follows_a_tilted_face():
    image, labels, face = drawn_face(200)
    for turns in range(4):
        turned, known = torch.rot90(image, turns, (0, 1)), torch.rot90(labels, turns, (0, 1))
        box = (face.x, face.y, face.width, face.height)
        inside = isin(known, "face")
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        box = (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
        made_up = edits.make_up(turned, known, [[Face(0, *box)]], {"eyeshadow": STEPS["eyeshadow"]})[0]
        change = torch.rot90((made_up - turned).abs().amax(2), -turns, (0, 1))
        rows = torch.arange(400)[:, None].expand(400, 400)
        total = change.sum()
        # Eyes at 188, brows' lower edge at 172, in a face from 100 to 300.
        assert change[rows < 165].sum() < 0.02 * total and change[rows > 192].sum() < 0.05 * total
        assert (rows * change).sum() / total == pytest.approx(179, abs=4)


# ---------------------------------------------------------------------------------------------- skin


def test_pores_stay_and_blotches_go():
    image, labels, face = drawn_face(400)
    y, x = torch.arange(800)[:, None] / 1.0, torch.arange(800) / 1.0
    pores = 0.02 * torch.sin(x * 2.2) * torch.sin(y * 2.2)  # of 3 pixels, under 1% of the face's height
    blotches = 0.02 * torch.sin(x / 4.5) * torch.sin(y / 4.5)  # of 28
    skin = isin(labels, "skin")
    image = torch.where(skin[..., None], torch.tensor([0.8, 0.62, 0.52]) + (pores + blotches)[..., None], image)
    smoothed = edits.smooth_skin(image, labels, [[face]], smooth=1, spots=0, shine=0, under_eyes=0)[0]
    where = slice(450, 530), slice(440, 500)  # a cheek
    before, after = image[where][..., 1], smoothed[where][..., 1]

    def share(pattern: torch.Tensor) -> float:
        pattern = pattern[where]
        return float(((after - after.mean()) * pattern).sum() / ((before - before.mean()) * pattern).sum())

    assert share(pores) > 0.9 and share(blotches) < 0.5


def test_spots_shine_and_shadows_go():
    image, labels, face = drawn_face(400)
    plain = image.clone()
    skin = isin(labels, "skin")
    y, x = torch.arange(800)[:, None], torch.arange(800)
    spot = (((x - 470) ** 2 + (y - 490) ** 2) < 5**2) & skin
    image[spot] -= torch.tensor([0.02, 0.08, 0.06])
    shine = torch.exp(-(((x - 400) / 30) ** 2) - ((y - 320) / 25) ** 2) * skin
    image = (image + 0.15 * shine[..., None]).clamp(0, 1)
    shadow = torch.exp(-(((x - 468) / 22) ** 2) - ((y - 398) / 8) ** 2) * skin
    image = image - 0.1 * shadow[..., None]
    better = {
        "spots": spot & skin,
        "shine": (shine > 0.6) & skin,
        "under_eyes": (shadow > 0.6) & skin,
    }
    for name, where in better.items():
        asked = {"smooth": 0, "spots": 0, "shine": 0, "under_eyes": 0, name: 1}
        result = edits.smooth_skin(image, labels, [[face]], **asked)[0]
        was, is_now = ((one - plain)[where].mean(0).abs().mean() for one in (image, result))
        assert is_now < 0.65 * was, name


@pytest.mark.parametrize("call", ["make_up", "smooth_skin"])
def test_what_does_not_go_together_is_refused(call):
    image, labels, face = drawn_face(30)

    def run(*given, **options):
        if call == "make_up":
            return edits.make_up(*given, "natural", **options)
        return edits.smooth_skin(*given, **options)

    with pytest.raises(ValueError, match="1 images, labels of 1 and the faces of 2"):
        run(image, labels, [[face], []])
    with pytest.raises(ValueError, match="of its size"):
        run(image, labels[1:], [[face]])
    with pytest.raises(ValueError, match="uint8"):
        run(image, labels.float(), [[face]])
    with pytest.raises(ValueError, match="'all', 'largest'"):
        run(image, labels, [[face]], face="mine")
    with pytest.raises(ValueError, match="from 0 to 1"):
        run(image, labels, [[face]], **{"strength" if call == "make_up" else "shine": 3})


# ---------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("name", edits.LOOKS)
def test_looks_that_are_shipped(name, closeup, tmp_path):
    image, parsing = closeup
    chosen = edits.look(name)
    made_up = edits.make_up(image, parsing.labels, parsing.faces, chosen)
    change = (made_up[0] - image).abs().amax(2)
    assert change[parsing.mask("lips")[0] > 0].mean() > 0.01 and change[parsing.mask("hair")[0] > 0].max() == 0
    file = tmp_path / "copy.json"
    file.write_text(chosen.as_json(), encoding="utf-8")
    assert edits.look(file) == edits.look(str(file)) == edits.look(chosen) == chosen


def test_six_looks_come_with_the_package():
    assert len(edits.LOOKS) == 6 and "natural" in edits.LOOKS
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert "edits/looks/*.json" in project


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("party", "there is no look 'party': choose one of classic"),
        (7, "a look is a name, a file"),
        ({"lipstik": {}}, "the look has no step lipstik: choose from foundation"),
        ({"lipstick": {}}, "lipstick of the look needs a colour"),
        ({"lipstick": "red"}, "lipstick of the look must be an object"),
        ({"lipstick": {"colour": "red", "finish": "wet"}}, "unknown finish 'wet': choose one of matte"),
        (
            {"lipstick": {"colour": "red", "shine": 1}},
            "lipstick of the look has no shine: choose from strength, colour",
        ),
        ({"teeth": {"strength": 2}}, "teeth of the look: strength must be a number from 0 to 1"),
        ({"teeth": {"strength": "much"}}, "strength must be a number"),
        ({"brows": {"colour": 7}}, "brows of the look: a colour is"),
        ({"eyeliner": {"colour": "#000", "thickness": 0}}, "thickness must be"),
    ],
)
def test_what_is_no_look_is_told(wanted, said):
    with pytest.raises(ValueError, match=said):
        edits.look(wanted)


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '{"blush": []}', "[" * 9000, '{"blush": NaN}'])
def test_files_that_are_no_look(text, tmp_path):
    file = tmp_path / "look.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="look.json"):
        edits.look(file)
    with pytest.raises(FileNotFoundError, match="there is no look"):
        edits.look(tmp_path / "none.json")


# ---------------------------------------------------------------------------------------------- the command line


def test_look_and_skin_on_the_command_line(tmp_path, portrait):
    picture = images.save(images.load(portrait)[0][:224, 140:364], tmp_path / "me.png")
    look = tmp_path / "mine.json"
    look.write_text(json.dumps({"lipstick": {"colour": "#a01020", "strength": 1}}), encoding="utf-8")
    out = tmp_path / "out.png"
    asked = ["--look", str(look), "--smooth", "0.5", "--model", "lite", "--device", "cpu", "-o", str(out)]
    assert main(["edit", str(picture), *asked]) == 0
    before, after = (images.load(path)[0].float() / 255 for path in (picture, out))
    parsing = FaceParser("lite", "cpu").parse(picture)
    lips = masks.grown(parsing.mask("lips"), -1)[0] > 0
    assert (before - after)[lips][:, 1].mean() > 0.1
    # Nothing but the face has changed.
    outside = masks.grown(parsing.mask("face"), 4)[0] == 0
    assert torch.equal(before[outside], after[outside])
    skin = masks.grown(parsing.mask("skin"), -6)[0] > 0
    assert 0.002 < (before - after)[skin].abs().mean() < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--look", "party"], "there is no look 'party'"),
        (["--look", "nowhere.json"], "there is no look nowhere.json"),
        (["--smooth", "2"], "--smooth must be a number from 0 to 1"),
    ],
)
def test_wrong_usage_is_told(portrait, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["edit", str(portrait), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_help_names_the_looks_that_are_shipped():
    done = subprocess.run(
        [sys.executable, "-m", "faceparse_core", "edit", "--help"], capture_output=True, text=True, timeout=60
    )
    assert f"{', '.join(edits.LOOKS)}, or the file" in done.stdout, done.stderr
