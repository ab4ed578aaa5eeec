"""Refining and cutting out: on drawn pictures, where the edge, the strands and the colours are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core import FaceParser, images, masks
from faceparse_core.masks import matting, reduced
from faceparse_core.masks.reduced import averaged, averaged_by_all, box_mean, linear_model, reduced_rows, tiles


def disc(size: int, radius: float, x: float = 0.0, width: float = 1.0) -> torch.Tensor:
    places = torch.arange(size) + 0.5 - size / 2
    distance = ((places - x)[None] ** 2 + places[:, None] ** 2).sqrt()
    return (0.5 + (radius - distance) / width).clamp(0, 1)


def painted(mask: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """[1, H, W, 3]: reddish where the mask is, bluish elsewhere, with a little grain."""
    front, back = torch.tensor([0.8, 0.4, 0.2]), torch.tensor([0.1, 0.3, 0.7])
    grain = torch.rand(*mask.shape, 3, generator=torch.Generator().manual_seed(seed)) * 0.04
    return (mask[..., None] * front + (1 - mask[..., None]) * back + grain).clamp(0, 1)[None]


TRUTH = disc(160, 50)
# What a network says: blurred, and a few pixels off.
GUESS = masks.blurred(disc(160, 50, x=3), 3)


@pytest.fixture(params=["guided", "closed_form"])
def method(request):
    """Those that know nothing of hair."""
    if request.param == "closed_form":
        pytest.importorskip("pymatting")
    return request.param


@pytest.mark.parametrize("hair", [False, True])
def test_the_edge_goes_to_where_the_colours_change(hair, method):
    refined = masks.refine(painted(TRUTH), GUESS, radius=6, unit="pixels", hair=hair, method=method)
    assert (refined[0] - TRUTH).abs().sum() < 0.4 * (GUESS[0] - TRUTH).abs().sum()
    assert ((refined[0] > 0.5) != (TRUTH > 0.5)).sum() < 0.4 * ((GUESS[0] > 0.5) != (TRUTH > 0.5)).sum()


def filtered_everywhere(image: torch.Tensor, mask: torch.Tensor, reach: float, hair: bool) -> torch.Tensor:
    """The guided filter of a picture [H, W, 3] in 0..1 and a mask [H, W], at every pixel of both."""
    decided = mask**4 / (mask**4 + (1 - mask) ** 4)
    factor = max(1, round(reach / 4))
    window = round(reach / factor)
    picture = torch.cat([image.permute(2, 0, 1), (mask if hair else decided)[None]])[None]
    guide, values = F.avg_pool2d(picture, factor, ceil_mode=True).split([3, 1], 1)
    sides = 2 * window + 1, 1, window
    band = F.max_pool2d(values, *sides) + F.max_pool2d(-values, *sides) > 0.05
    slope = box_mean(linear_model(guide, values, window, (0.01 if hair else 0.03) ** 2), window)
    model = torch.cat([slope, box_mean(band.float(), 1)], 1)
    lines = F.interpolate(model, scale_factor=factor, mode="bilinear", align_corners=False)[0]
    lines = lines[:, : mask.shape[0], : mask.shape[1]]
    found = (lines[:3] * image.permute(2, 0, 1)).sum(0) + lines[3]
    return torch.lerp(decided, ((found - 0.5) * (2 if hair else 4) + 0.5).clamp(0, 1), lines[4])


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(40, 90),
    place=st.tuples(st.floats(-0.7, 0.7), st.floats(0.1, 0.5), st.floats(0.1, 12)),
    reach=st.floats(4, 30),
    hair=st.booleans(),
    band=st.sampled_from([1, 1000, 1 << 16]),
)
def test_work_in_the_band_alone_gives_what_work_everywhere_does(size, place, reach, hair, band):
    x, radius, width = place
    mask = disc(size, radius * size, x * size, width)[:, : size - 7]
    image = painted(disc(size, radius * size + 2, x * size, 2)[:, : size - 7])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduced, "_LEAST_PIXELS", band)
        patch.setattr(reduced, "_MOST_PIXELS", band)
        refined = masks.refine(image, mask[None], radius=reach / (2 if hair else 1), unit="pixels", hair=hair)[0]
    assert (refined - filtered_everywhere(image[0], mask, reach, hair)).abs().max() < 1 / 512


def test_fine_strands_that_the_mask_smears_come_back_as_hair(method):
    truth = disc(160, 40)
    truth[40:42, 70:150] = 1
    truth[80:82, 100:150] = 1
    guess = masks.blurred(truth, 2)
    refined = masks.refine(painted(truth), guess, radius=5, unit="pixels", hair=True, method=method)[0]
    for row in (40, 80):
        strand, beside = slice(row, row + 2), slice(row + 3, row + 5)
        assert refined[strand, 125:145].mean() > 0.2
        assert refined[beside, 125:145].mean() < 0.2 * refined[strand, 125:145].mean()
        assert guess[0, beside, 125:145].mean() > 0.2 * guess[0, strand, 125:145].mean()


def test_away_from_the_edge_nothing_but_doubt_is_taken_out(method):
    mask = disc(200, 60) * 0.9 + 0.05
    refined = masks.refine(painted(disc(200, 60)), mask, radius=4, unit="pixels", method=method)[0]
    far = (disc(200, 40) == 1) | (disc(200, 80) == 0)
    assert ((refined > 0.5) == (mask > 0.5))[far].all()
    assert (refined - mask.round()).abs()[far].max() < 0.01
    sure = masks.refine(painted(TRUTH), torch.ones(160, 160), method=method)
    assert torch.equal(sure, torch.ones(1, 160, 160))


def test_strength_mixes_and_zero_changes_nothing():
    image = painted(TRUTH)
    full = masks.refine(image, GUESS)
    assert torch.allclose(masks.refine(image, GUESS, strength=0.5), (full + GUESS) / 2, atol=1e-5)
    assert torch.equal(masks.refine(image, GUESS, strength=0), GUESS)


@pytest.fixture(scope="module")
def head():
    """The close-up, [1, H, W, 3], and a mask of its hair."""
    picture = images.load(Path(__file__).parents[1] / "samples" / "closeup.jpg")[0][None]
    return picture, FaceParser("lite", "cpu").parse(picture).mask("hair")


def differing(one: torch.Tensor, other: torch.Tensor) -> int:
    return ((one > 0.5) != (other > 0.5)).sum().item()


@pytest.mark.parametrize("off", [-6, 6])
def test_the_network_puts_the_outline_of_hair_back(head, off):
    picture, hair = head
    wrong = masks.blurred(masks.grown(hair, off), 3)
    corrected = masks.refine(picture, wrong, method="network")
    assert differing(corrected, hair) < 0.5 * differing(wrong, hair)
    assert differing(masks.refine(picture, wrong), hair) > 0.8 * differing(wrong, hair), "a filter cannot"
    assert torch.equal(masks.refine(picture, wrong, method="network", strength=0), wrong)


def test_the_network_sees_the_same_in_a_larger_picture_and_in_each_of_a_batch(head):
    picture, hair = head
    wrong = masks.blurred(masks.grown(hair, 6), 3)
    corrected = masks.refine(picture, wrong, method="network")
    twice = torch.nn.functional.interpolate(picture.permute(0, 3, 1, 2).float() / 255, scale_factor=2, mode="bilinear")
    large = torch.nn.functional.interpolate(wrong[None], scale_factor=2, mode="bilinear")[0]
    large = masks.refine(twice.permute(0, 2, 3, 1), large, method="network")
    back = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert differing(back, corrected) < 0.2 * differing(wrong, corrected)
    both = masks.refine(picture, torch.cat([hair, wrong]), method="network")
    assert torch.allclose(both[1:], corrected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (40, 700), (33, 5)])
def test_the_network_takes_any_size_and_leaves_an_empty_mask(size):
    picture, mask = torch.rand(1, *size, 3), torch.rand(1, *size)
    corrected = masks.refine(picture, mask, method="network")
    assert corrected.shape == mask.shape and corrected.min() >= 0 and corrected.max() <= 1
    assert not masks.refine(picture, torch.zeros(size), method="network").any()


def test_a_large_picture_is_solved_at_a_reduced_size(monkeypatch):
    pytest.importorskip("pymatting")
    whole = masks.refine(painted(TRUTH), GUESS, radius=6, unit="pixels", method="closed_form")
    monkeypatch.setattr(matting, "_SOLVED_PIXELS", 80 * 80)
    reduced = masks.refine(painted(TRUTH), GUESS, radius=6, unit="pixels", method="closed_form")
    assert 0 < (whole - reduced).abs().mean() < 0.01


def test_without_pymatting_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(ImportError, match="pip install pymatting"):
        masks.refine(painted(TRUTH), GUESS, method="closed_form")


def test_percent_means_the_same_at_every_size():
    small, image = GUESS[0], painted(TRUTH)
    twice = torch.nn.functional.interpolate(image.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    large = torch.nn.functional.interpolate(small[None, None], scale_factor=2, mode="bilinear")[0]
    refined = masks.refine(image, small, radius=8)
    refined_large = masks.refine(twice.permute(0, 2, 3, 1), large, radius=8)
    back = torch.nn.functional.avg_pool2d(refined_large[None], 2)[0]
    assert (back - refined).abs().mean() < 0.01


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 99),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    radius=st.sampled_from([0.5, 3.0, 50.0]),
)
def test_any_size_and_radius_stays_in_range_and_a_batch_is_each_alone(seed, height, width, radius):
    generator = torch.Generator().manual_seed(seed)
    image, mask = (
        torch.rand(2, height, width, 3, generator=generator),
        torch.rand(2, height, width, generator=generator),
    )
    refined = masks.refine(image, mask, radius=radius, unit="pixels")
    colours = masks.foreground(image, mask)
    for result in (refined, colours):
        assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1
    assert torch.allclose(refined[1:], masks.refine(image[1:], mask[1], radius=radius, unit="pixels"), atol=1e-6)
    assert torch.allclose(colours[1:], masks.foreground(image[1:], mask[1]), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_bytes_are_taken(dtype):
    image = painted(TRUTH)
    expected = masks.refine(image, GUESS)
    refined = masks.refine((image[0] * 255).round().to(torch.uint8), GUESS.to(dtype))
    assert refined.dtype == torch.float32 and (refined - expected).abs().mean() < 0.01


def test_what_does_not_go_together_is_told():
    image = painted(TRUTH)
    with pytest.raises(ValueError, match="1 image of 160x160 and 1 mask of 160x159 do not go together"):
        masks.refine(image, GUESS[:, :159])
    with pytest.raises(ValueError, match="2 images of 160x160 and 3 masks"):
        masks.cut_out(image.expand(2, -1, -1, -1), GUESS.expand(3, -1, -1))
    with pytest.raises(ValueError, match="inches"):
        masks.refine(image, GUESS, unit="inches")
    with pytest.raises(ValueError, match="magic"):
        masks.refine(image, GUESS, method="magic")
    with pytest.raises(ValueError, match="radius"):
        masks.refine(image, GUESS, radius=0)
    with pytest.raises(ValueError, match="strength"):
        masks.refine(image, GUESS, strength=2)
    with pytest.raises(ValueError, match="NaN"):
        masks.refine(image, GUESS * float("nan"))


# ---------------------------------------------------------------------------------------------- cutting out


def test_no_halo_of_the_old_background_is_left():
    front, back = torch.tensor([0.8, 0.4, 0.2]), torch.tensor([0.1, 0.9, 0.7])
    alpha = disc(160, 50, width=12)
    image = (alpha[..., None] * front + (1 - alpha[..., None]) * back)[None]
    colours = masks.foreground(image, alpha)[0]
    edge = (alpha > 0.1) & (alpha < 0.9)
    assert (colours - front).abs()[edge].mean() < 0.12 * (image[0] - front).abs()[edge].mean()
    assert (colours - front).abs()[alpha > 0.02].max() < 0.15
    assert torch.equal(colours[alpha == 1], image[0][alpha == 1])


def test_each_place_has_the_colours_of_its_own_neighbourhood():
    alpha = disc(200, 70, width=10)
    columns = torch.linspace(0, 1, 200)
    front = torch.stack([columns, 1 - columns, torch.full((200,), 0.3)], 1).expand(200, -1, -1)
    image = alpha[..., None] * front + (1 - alpha[..., None]) * 0.5
    colours = masks.foreground(image[None], alpha)[0]
    edge = (alpha > 0.2) & (alpha < 0.9)
    assert (colours - front).abs()[edge].mean() < 0.03


def test_a_cut_out_has_the_mask_as_its_alpha_and_goes_with_a_batch():
    images = torch.cat([painted(TRUTH), painted(TRUTH, seed=1)])
    cut = masks.cut_out(images, TRUTH)
    assert cut.shape == (2, 160, 160, 4) and torch.equal(cut[..., 3], TRUTH.expand(2, -1, -1))
    assert torch.equal(cut[..., :3], masks.foreground(images, TRUTH))
    plain = masks.cut_out(images, TRUTH, clean_colours=False)
    assert torch.equal(plain[..., :3], images)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_are_cut_out_too(value):
    image = painted(TRUTH)
    cut = masks.cut_out(image, torch.full((160, 160), value))
    assert cut.isfinite().all() and (cut[..., 3] == value).all()
    if value:
        assert torch.equal(cut[..., :3], image)


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 4000), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_tiles_are_whole_squares_and_hold_all_that_is_there(height, width, factor, seed):
    cells = -(-height // factor), -(-width // factor)
    there = torch.rand(cells, generator=torch.Generator().manual_seed(seed)) > 0.9
    seen = torch.zeros(cells, dtype=torch.int)
    for rows, columns in tiles(there, factor, (height, width)):
        for side, length in ((rows, height), (columns, width)):
            assert side.start % factor == 0 and (side.stop % factor == 0 or side.stop == length)
        seen[reduced_rows(rows, factor), reduced_rows(columns, factor)] += 1
    assert seen[there].eq(1).all() and seen.max() <= 1


def test_averages_by_all_threads_are_those_of_one():
    values = torch.rand(300, 701, 3, generator=torch.Generator().manual_seed(1))
    for factor in (1, 2, 7, 64):
        assert torch.equal(averaged_by_all(values, factor), averaged(values, factor))
