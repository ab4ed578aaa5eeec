"""Edits: what they do inside of a mask, that they do nothing outside, and the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceparse_core import FaceParser, edits, images, masks
from faceparse_core.cli import main
from faceparse_core.edits.colours import lab, to_oklab, to_srgb
from faceparse_core.faces import Face


def disc(size: int, radius: float, width: float = 1.0) -> torch.Tensor:
    places = torch.arange(size) + 0.5 - size / 2
    return (0.5 + (radius - (places[None] ** 2 + places[:, None] ** 2).sqrt()) / width).clamp(0, 1)


def texture(size: int, level: float, seed: int = 0) -> torch.Tensor:
    """Strands of light and shade about a grey level, [H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    strands = masks.blurred(torch.rand(1, size, size, generator=generator), 1.5)[0]
    strands = (strands - strands.mean()) / strands.std() * 0.06
    return (level + strands).clamp(0, 1)[..., None] * torch.tensor([1.0, 0.9, 0.8])


def hue_and_chroma(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = to_oklab(pixels.reshape(-1, 3))
    return torch.atan2(values[:, 2], values[:, 1]), values[:, 1:].norm(dim=1)


def everything(image: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every edit that takes a picture and a mask of what is to be changed."""
    return {
        "recolour": edits.recolour(image, mask, "#b5562b", tips="#e8dcc4"),
        "blur": edits.blur_background(image, 1 - mask, radius=4),
        "replace": edits.replace_background(image, 1 - mask, "navy"),
    }


# ---------------------------------------------------------------------------------------------- colours


def test_oklab_is_that_of_its_author():
    # Published values: white, and sRGB red.
    assert torch.allclose(lab("white"), torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(lab("red"), torch.tensor([0.62796, 0.22486, 0.12585]), atol=1e-3)
    pixels = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    assert (to_srgb(to_oklab(pixels)) - pixels).abs().max() < 1e-3


@pytest.mark.parametrize("colour", ["#12345", "hair", (0.1, 0.2), (1, 2, 300), None, 7])
def test_what_is_no_colour_is_refused(colour):
    with pytest.raises(ValueError, match="colour"):
        edits.rgb(colour)


# ---------------------------------------------------------------------------------------------- the mask holds


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["bytes", "floats"]),
    cut=st.floats(0, 1),
)
def test_outside_of_the_mask_nothing_changes(seed, size, kind, cut):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, *size, 3, generator=generator)
    if kind == "bytes":
        image = (image * 255).round().to(torch.uint8)
    before = image.clone()
    mask = torch.rand(2, *size, generator=generator)
    mask = torch.where(mask < cut, torch.zeros(()), mask)
    for name, result in everything(image, mask).items():
        assert result.shape == image.shape and result.dtype == torch.float32, name
        assert result.min() >= 0 and result.max() <= 1, name
        outside = mask == 0
        expected = image.float().div(255) if kind == "bytes" else image
        # A background is what is not the person: where 1 - mask is 1.
        outside = outside if name == "recolour" else (1 - mask) == 1
        assert torch.equal(result[outside], expected[outside]), name
    assert torch.equal(image, before), "what was given was written to"


def test_a_picture_of_a_single_row():
    row, mask = torch.full((1, 300, 3), 0.5), torch.zeros(1, 300)
    mask[:, 100:120] = 1
    dyed = edits.recolour(row, mask, "#b5562b")[0]
    assert torch.equal(dyed[:, :100], row[:, :100]) and (dyed[:, 100:120] - row[:, 100:120]).abs().max() > 0.1


def test_an_empty_mask_and_no_strength_change_nothing():
    image = texture(48, 0.4)
    assert torch.equal(edits.recolour(image, torch.zeros(48, 48), "red")[0], image)
    assert torch.equal(edits.recolour(image, torch.ones(48, 48), "red", strength=0)[0], image)
    assert torch.equal(edits.blur_background(image, torch.ones(48, 48))[0], image)


def test_one_mask_goes_with_a_batch_and_progress_is_told():
    batch, told = torch.stack([texture(32, 0.2), texture(32, 0.6)]), []
    result = edits.recolour(batch, disc(32, 10), "red", progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    assert torch.equal(result[1], edits.recolour(batch[1], disc(32, 10), "red")[0])
    with pytest.raises(ValueError, match="do not go together"):
        edits.recolour(batch, disc(20, 10), "red")


# ---------------------------------------------------------------------------------------------- recolour


@pytest.mark.parametrize("level", [0.12, 0.75], ids=["dark hair", "light hair"])
@pytest.mark.parametrize("colour", ["#17130f", "#b5562b", "#e8dcc4", "#2f5fb3", "#808080", "#f3b6cf"])
def test_hue_and_lightness_are_the_colours_and_texture_stays(level, colour):
    image = texture(96, level)
    result = edits.recolour(image, torch.ones(96, 96), colour)[0]
    wanted = lab(colour)
    found = to_oklab(result.reshape(-1, 3))
    hue, chroma = hue_and_chroma(result)
    goal = torch.atan2(wanted[2], wanted[1])
    away = torch.remainder(hue - goal + torch.pi, 2 * torch.pi) - torch.pi
    if wanted[1:].norm() > 0.05:
        assert torch.rad2deg(away.abs().mean()) < 3
    assert abs(chroma.median() - wanted[1:].norm()) < 0.02
    # Black is not nothing, and white hair leaves room for its gloss.
    assert abs(found[:, 0].median() - wanted[0]) < 0.06
    before, after = to_oklab(image.reshape(-1, 3))[:, 0], found[:, 0]
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.97


def test_in_a_soft_edge_what_shines_through_stays():
    """Dark hair before a bright wall, half transparent at its edge: as if the dyed hair stood before the wall."""
    alpha = disc(160, 50, width=12)
    wall, hair = torch.tensor([0.8, 0.85, 0.9]), texture(160, 0.15)
    image = alpha[..., None] * hair + (1 - alpha[..., None]) * wall
    dyed = edits.recolour(hair, torch.ones(160, 160), "#e8dcc4")[0]
    truth = alpha[..., None] * dyed + (1 - alpha[..., None]) * wall
    result = edits.recolour(image, alpha, "#e8dcc4")[0]
    rim = (alpha > 0) & (alpha < 1)
    flat = image + alpha[..., None] * (edits.recolour(image, torch.ones(160, 160), "#e8dcc4")[0] - image)
    print(
        (result - truth)[rim].mean().abs() * 255, (flat - truth)[rim].abs().mean(), (result - truth)[rim].abs().mean()
    )
    assert (result - truth)[rim].mean().abs() * 255 < 4
    assert (result - truth)[rim].abs().mean() < 0.5 * (flat - truth)[rim].abs().mean()


def test_skin_at_the_edge_that_was_taken_for_hair_keeps_its_colour():
    mask = disc(160, 50)
    hair = disc(160, 46)
    image = torch.where(hair[..., None] > 0.5, texture(160, 0.12), torch.tensor([0.8, 0.6, 0.5]))
    change = (edits.recolour(image, mask, "#2f5fb3")[0] - image).abs().mean(-1)
    assert change[(hair == 0) & (mask == 1)].mean() < 0.25 * change[hair == 1].mean()


def test_tips_have_the_second_colour_and_roots_the_first():
    image, mask = texture(120, 0.3), torch.ones(120, 120)
    result = edits.recolour(image, mask, "#3a2416", tips="#d9a441")[0]
    assert torch.allclose(result[:30], edits.recolour(image, mask, "#3a2416")[0, :30], atol=0.02)
    assert torch.allclose(result[110:], edits.recolour(image, mask, "#d9a441")[0, 110:], atol=0.02)
    middle = to_oklab(result.mean(1))[:, 0]
    assert (middle[40:100].diff().mean()) > 0


def test_strength_mixes_and_light_leaves_lightness():
    image, mask = texture(64, 0.2), torch.ones(64, 64)
    full = edits.recolour(image, mask, "#e8dcc4")[0]
    half = edits.recolour(image, mask, "#e8dcc4", strength=0.5)[0]
    assert torch.allclose(half, (image + full) / 2, atol=1e-5)
    tinted = edits.recolour(image, mask, "#2f5fb3", light=0)[0]
    before, after = (to_oklab(one.reshape(-1, 3))[:, 0] for one in (image, tinted))
    assert abs(before.median() - after.median()) < 0.05


# ---------------------------------------------------------------------------------------------- background


def test_the_person_does_not_bleed_into_the_blur():
    person = disc(200, 50, width=3)
    image = person[..., None] * torch.tensor([1.0, 0.0, 0.0]) + (1 - person[..., None]) * 0.4
    blurred = edits.blur_background(image, person, radius=6, falloff=0)[0]
    # The whole picture blurred would be red around them.
    assert (blurred[person == 0] - 0.4).abs().max() < 0.03
    assert torch.equal(blurred[person == 1], image[person == 1])


def test_blur_is_a_disc_of_light_and_weaker_beside_the_person():
    image, person = torch.full((201, 201, 3), 0.05), torch.zeros(201, 201)
    image[100, 100] = 1
    spot = edits.blur_background(image, person, radius=3, falloff=0)[0, 100, :, 0]
    lit = (spot > 0.055).nonzero()[:, 0]
    assert 8 <= lit[-1] - lit[0] <= 18, "about twice the radius of 6 pixels"
    # A fine pattern is blurred more, the farther it is from the person.
    stripes = (torch.arange(240) // 3 % 2).float()[None, :, None].expand(240, 240, 3).contiguous()
    person = torch.zeros(240, 240)
    person[:, :40] = 1
    rest = edits.blur_background(stripes, person, radius=4, falloff=1)[0]
    assert rest[:, 44:60].std() > 2 * rest[:, 180:].std()


def test_wide_pictures_are_blurred_in_tiles_as_in_one():
    """4,000 pixels across are several tiles, which begin with a cell of the grid of any radius."""
    image, person = torch.full((64, 4000, 3), 0.4), torch.zeros(64, 4000)
    person[:, 3700:3900] = 1
    for radius in (0.4, 0.8, 1.3, 3.0):
        assert (edits.blur_background(image, person, radius=radius)[0] - 0.4).abs().max() < 1e-3


def test_another_picture_fills_the_background_whatever_its_size():
    person = torch.zeros(40, 60)
    person[:, 25:35] = 1
    new = torch.zeros(30, 30, 3)
    new[:, :, 1] = torch.linspace(0, 1, 30)
    result = edits.replace_background(torch.ones(2, 40, 60, 3), person, new)
    assert result.shape == (2, 40, 60, 3) and (result[:, :, 25:35] == 1).all()
    assert result[0, 20, 0, 1] < 0.1 and result[0, 20, -1, 1] > 0.9
    with pytest.raises(ValueError, match="do not go with 2 images"):
        edits.replace_background(torch.ones(2, 40, 60, 3), person, new[None].expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="no colour"):
        edits.replace_background(torch.ones(40, 60, 3), person, "no-such-colour")


# ---------------------------------------------------------------------------------------------- the command line


ON_CPU = ["--model", "lite", "--device", "cpu"]


@pytest.fixture
def picture(portrait, tmp_path):
    return shutil.copy(portrait, tmp_path / "me.jpg")


def test_hair_and_background_on_the_command_line(picture, tmp_path, capsys):
    target = tmp_path / "out.png"
    assert main(["edit", str(picture), *ON_CPU, "--hair", "#2f5fb3", "--background", "blur", "-o", str(target)]) == 0
    assert capsys.readouterr().out == f"{picture}: 1 face -> {target}\n"
    result, original = (images.load(path)[0].float() / 255 for path in (target, picture))
    parsing = FaceParser("lite", "cpu").parse(picture)
    hair = masks.grown(parsing.mask("hair"), -6)[0] > 0
    hue, chroma = hue_and_chroma(result[hair])
    wanted = lab("#2f5fb3")
    assert (hue.median() - torch.atan2(wanted[2], wanted[1])).abs() < 0.1 and chroma.median() > 0.08
    face = masks.grown(parsing.mask("face"), -6)[0] > 0
    assert ((result - original)[face].abs().amax(1) <= 2 / 255).float().mean() > 0.98
    sharp = lambda image: (image[40:200, 360:500].diff(dim=1)).abs().mean()  # noqa: E731 - a rocket behind her
    assert sharp(result) < 0.6 * sharp(original)


def test_transparent_and_beside_the_picture(picture, tmp_path):
    assert main(["edit", str(picture), *ON_CPU, "--background", "transparent"]) == 0
    with Image.open(tmp_path / "me.edited.png") as edited:
        assert edited.mode == "RGBA" and np.array(edited)[0, 0, 3] < 20
    # Our own output is overwritten, and never taken for input.
    assert main(["edit", str(tmp_path), *ON_CPU, "--background", "white"]) == 0
    with Image.open(tmp_path / "me.edited.png") as edited:
        assert edited.mode == "RGB" and np.array(edited)[0, 0].tolist() == [255, 255, 255]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is to be changed"),
        (["--hair", "hiar"], "'hiar' is no colour"),
        (["--background", "nowhere.jpg"], "neither 'blur' nor 'transparent'"),
        (["--tips", "red", "--lips", "red"], "--tips is the second colour of --hair"),
        (["--hair", "red", "--strength", "2"], "--strength must be a number from 0 to 1"),
    ],
)
def test_wrong_usage_is_told(picture, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["edit", str(picture), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_picture_that_is_none_does_not_stop_the_others(picture, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no picture")
    assert main(["edit", str(tmp_path), *ON_CPU, "--background", "#000"]) == 1
    errors = capsys.readouterr().err
    assert "broken.jpg is not a picture" in errors and "1 of 2 pictures failed" in errors
    assert (tmp_path / "me.edited.png").exists()


def test_help_needs_no_torch():
    code = (
        "import sys; from faceparse_core.cli import main\n"
        "try: main(['edit', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--background" in done.stdout, done.stderr


# ---------------------------------------------------------------------------------------------- privacy


@pytest.mark.parametrize("way", edits.WAYS)
def test_hiding_leaves_everything_else_as_it_is(way):
    image = torch.rand(2, 80, 90, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(2, 80, 90, dtype=torch.uint8)
    labels[:, 22:58, 32:56] = 1
    faces = [[Face(0, 30, 20, 30, 40)], []]
    mask = edits.hidden_area(labels, faces)
    hidden = edits.hide(image, mask, faces, way=way, labels=labels)
    assert torch.equal(hidden[mask == 0], image[mask == 0]) and torch.equal(hidden[1], image[1])
    assert (hidden[0][mask[0] > 0] - image[0][mask[0] > 0]).abs().mean() > 0.1


@pytest.mark.parametrize("size", [24, 96, 300])
def test_cells_are_as_large_as_the_face_asks_for(size):
    image = torch.rand(1, 400, 400, 3, generator=torch.Generator().manual_seed(3))
    face = Face(0, 40, 40, size, round(size * 1.3))
    mask = edits.hidden_area(torch.zeros(1, 400, 400, dtype=torch.uint8), [[face]])
    row = edits.hide(image, mask, [[face]])[0, 40 + face.height // 2]
    inside = row[mask[0, 40 + face.height // 2] > 0]
    assert 1 + (inside[1:] != inside[:-1]).any(1).sum() <= 10  # 8 over the face, and the rim that it has


def test_somebody_alone_is_hidden_or_seen():
    faces = [[Face(0, 10, 10, 20, 26), Face(1, 60, 10, 20, 26)]]
    labels = torch.zeros(1, 60, 100, dtype=torch.uint8)
    one, others = (edits.hidden_area(labels, faces, face=0, others=others)[0] for others in (False, True))
    assert one[:, :45].any() and not one[:, 45:].any()
    assert others[:, 45:].any() and not others[:, :45].any()
    rest = edits.hidden_area(labels, faces, area="all but the face")[0]
    assert rest[0, 0] == 1 and rest[23, 20] == 0
    with pytest.raises(ValueError, match="unknown area 'nose'"):
        edits.hidden_area(labels, faces, area="nose")
    with pytest.raises(ValueError, match="1 to 8|from 1|8"):
        edits.hide(torch.rand(1, 60, 100, 3), rest, faces, cells=40)


def test_faces_are_hidden_on_the_command_line_and_nothing_of_the_camera_is_carried_over(portrait, tmp_path, capsys):
    head = Image.open(portrait).crop((140, 10, 364, 234))
    exif = head.getexif()
    exif[0x010F] = "a camera"
    head.save(tmp_path / "head.jpg", exif=exif)
    out = tmp_path / "nobody.png"
    assert main(["edit", str(tmp_path / "head.jpg"), "--privacy", "pixelate", "-o", str(out)]) == 0
    hidden = Image.open(out)
    assert not hidden.getexif() and b"a camera" not in out.read_bytes()
    before, after = (np.array(one.convert("RGB")).astype(int) for one in (Image.open(tmp_path / "head.jpg"), hidden))
    assert np.abs(before - after)[90:130, 80:140].mean() > 3 and np.array_equal(before[:4], after[:4])
    with pytest.raises(SystemExit, match="2"):
        main(["edit", str(tmp_path / "head.jpg"), "--area", "eyes"])
    assert "--privacy" in capsys.readouterr().err
