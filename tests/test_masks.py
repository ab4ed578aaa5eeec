"""Mask algebra: against definitions spelt out pixel by pixel, and on the sizes that people have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core import masks


def disc(size: int, radius: float, x: float | None = None, y: float | None = None) -> torch.Tensor:
    places = torch.arange(size) + 0.5
    x, y = (size / 2 if place is None else place for place in (x, y))
    return ((places - x)[None] ** 2 + (places - y)[:, None] ** 2 <= radius**2).float()


def random_mask(seed: int, levels: int, density: float, size: tuple[int, int] = (13, 17)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(1, levels + 1, size, generator=generator) / levels
    return values * (torch.rand(size, generator=generator) < density)


def grown_by_definition(mask: torch.Tensor, distance: float) -> torch.Tensor:
    """The greatest value within the distance, pixel by pixel."""
    height, width = mask.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    result = torch.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = (rows - y) ** 2 + (columns - x) ** 2 <= distance**2
            result[y, x] = mask[near].max()
    return result


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    levels=st.sampled_from([1, 4, 16]),
    density=st.sampled_from([0, 0.05, 0.5, 1]),
    distance=st.sampled_from([1, 1.5, 2, 5, 40]),
)
def test_growing_takes_the_greatest_value_within_the_distance_and_shrinking_the_least(seed, levels, density, distance):
    mask = random_mask(seed, levels, density)
    grown, shrunk = masks.refine(mask, grow=distance)[0], masks.refine(mask, grow=-distance)[0]
    assert torch.allclose(grown, grown_by_definition(mask, distance), atol=1e-6)
    assert torch.allclose(shrunk, 1 - grown_by_definition(1 - mask, distance), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), distance=st.integers(1, 6))
def test_soft_masks_keep_their_values_within_a_sixteenth(seed, distance):
    mask = torch.rand(13, 17, generator=torch.Generator().manual_seed(seed))
    grown = masks.refine(mask, grow=distance)[0]
    assert (grown - grown_by_definition(mask, distance)).abs().max() <= 1 / 16 + 1e-6


def test_three_million_pixels_grow_by_500():
    mask = torch.zeros(1, 1733, 1733)
    mask[0, 866, 866] = 1
    grown = masks.refine(mask, grow=500)
    assert grown.sum().item() == pytest.approx(math.pi * 500**2, rel=1e-3)
    assert grown[0, 866, 1366] == 1 and grown[0, 866, 1367] == 0
    assert torch.equal(masks.refine(grown, grow=-500), mask)
    assert masks.refine(mask, feather=500, direction="outward").sum() > 1000


def test_a_mask_that_reaches_the_border_does_not_shrink_from_there():
    half = torch.zeros(20, 20)
    half[:, :10] = 1
    shrunk = masks.refine(half, grow=-3)[0]
    assert torch.equal(shrunk[:, :7], torch.ones(20, 7)) and not shrunk[:, 7:].any()


@pytest.mark.parametrize("amount", [-700, -1, 0, 1, 700])
def test_empty_and_full_masks_stay_what_they_are(amount):
    for full in (torch.zeros(2, 9, 9), torch.ones(2, 9, 9)):
        done = masks.refine(full, grow=amount, feather=abs(amount), fill_holes=True)
        assert torch.allclose(done, full, atol=1e-6)


def test_holes_are_filled_and_bays_are_not():
    ring = disc(40, 15) - disc(40, 8)
    assert torch.equal(masks.refine(ring, fill_holes=True)[0], disc(40, 15))
    bay = ring.clone()
    bay[18:22, 20:] = 0  # now the hole is open to the outside
    assert torch.equal(masks.refine(bay, fill_holes=True)[0], bay)
    cut = torch.ones(10, 10)
    cut[0, 4:6] = 0  # at the border of the image: no hole
    assert torch.equal(masks.refine(cut, fill_holes=True)[0], cut)
    # The soft rim of a hole is filled up with it.
    soft = torch.nn.functional.avg_pool2d(ring[None, None], 5, 1, 2)[0]
    assert (masks.refine(soft, fill_holes=True)[0, 18:22, 18:22] == 1).all()


def test_specks_go_and_what_is_large_enough_stays_to_the_pixel():
    mask = disc(50, 10)
    specks = mask.clone()
    specks[2, 2:5] = 1
    specks[45, 45] = 1
    assert torch.equal(masks.refine(specks, remove_specks=4)[0], mask)
    assert masks.refine(specks, remove_specks=3)[0, 2, 3] == 1
    assert not masks.refine(specks, remove_specks=10_000).any()


def test_where_nothing_is_to_be_done_soft_values_come_back_unchanged():
    soft = torch.rand(2, 30, 30)
    assert torch.equal(masks.refine(soft), soft)
    assert torch.equal(masks.refine(soft, remove_specks=1), soft)
    large = disc(30, 12) * 0.7
    assert torch.equal(masks.refine(large, fill_holes=True, remove_specks=5)[0], large)


@pytest.mark.parametrize("width", [1, 4, 21])
def test_feathering_stays_on_its_side(width):
    mask = torch.zeros(60, 60)
    mask[:, 30:] = 1
    inward, outward, both = (
        masks.refine(mask, feather=width, direction=side)[0, 30] for side in masks.DIRECTIONS[1:] + masks.DIRECTIONS[:1]
    )
    assert not inward[:30].any() and (inward[30 + width :] == 1).all()
    assert (outward[30:] == 1).all() and not outward[: 30 - width].any()
    assert torch.allclose(both + both.flip(0), torch.ones(60), atol=1e-5)  # centred on the edge
    for ramp in (inward, outward, both):
        assert (ramp.diff() >= -1e-6).all()
        assert (ramp > 0).sum() + (ramp < 1).sum() <= 60 + width + 1  # no wider than was asked


def test_progress_is_told_and_may_stop_the_work():
    seen = []
    masks.refine(torch.rand(3, 8, 8), grow=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        masks.refine(torch.rand(3, 8, 8), progress=stop)


A = torch.tensor([[0.0, 0.25, 1.0]])
B = torch.tensor([[0.5, 0.5, 0.75]])


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("union", [0.5, 0.5, 1]),
        ("intersect", [0, 0.25, 0.75]),
        ("subtract", [0, 0.25, 0.25]),
        ("difference", [0.5, 0.25, 0.25]),
        ("multiply", [0, 0.125, 0.75]),
        ("average", [0.25, 0.375, 0.875]),
    ],
)
def test_combining(operation, expected):
    before = A.clone(), B.clone()
    assert masks.combine([A, B], operation)[0, 0].tolist() == expected
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])  # what is given is not written to
    assert torch.equal(masks.combine([A], operation)[0], A)


def test_average_of_three_is_their_mean():
    three = [torch.rand(2, 3, 4) for _ in range(3)]
    assert torch.allclose(masks.combine(three, "average"), torch.stack(three).mean(0))


def test_one_goes_with_many_and_other_numbers_or_sizes_are_told():
    one, many = torch.rand(1, 4, 5), torch.rand(3, 4, 5)
    assert torch.equal(masks.combine([one, many], "union"), torch.maximum(one, many))
    assert torch.equal(masks.combine([many, one[0]], "multiply"), one * many)
    with pytest.raises(ValueError, match="mask 0 is 2 of 5x4, mask 1 is 3 of 5x4"):
        masks.combine([torch.rand(2, 4, 5), many], "union")
    with pytest.raises(ValueError, match="mask 1 is 1 of 6x4"):
        masks.combine([many, torch.rand(4, 6)], "union")


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (1, 1, 5, 7), (1, 5, 7, 1), (1, 5, 7, 4)])
def test_masks_of_other_ranks_are_taken_as_what_they_mean(shape):
    mask = torch.zeros(shape)
    mask[..., -1] = 0.5
    assert masks.as_mask(mask).shape == (1, 5, 7)
    assert masks.as_mask(mask).max() == 0.5


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(0, 4, 4), "empty"),
        (torch.zeros(1, 0, 4), "empty"),
        (torch.zeros(4), r"\[4\]"),
        (torch.zeros(2, 4, 4, 3), r"\[2, 4, 4, 3\]"),
        (torch.full((4, 4), float("nan")), "NaN"),
        ([[0, 1]], "list"),
    ],
)
def test_what_is_no_mask_is_told(mask, message):
    with pytest.raises(ValueError, match=message):
        masks.refine(mask)
    with pytest.raises(ValueError, match=message):
        masks.combine([mask, mask])


def test_values_beyond_the_range_are_clamped_and_bad_arguments_told():
    assert masks.as_mask(torch.tensor([[-1.0, 2.0]])).tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="sideways"):
        masks.refine(A, direction="sideways")
    with pytest.raises(ValueError, match="feather"):
        masks.refine(A, feather=-1)
    with pytest.raises(ValueError, match="xor"):
        masks.combine([A, B], "xor")
    with pytest.raises(ValueError, match="no mask"):
        masks.combine([])
