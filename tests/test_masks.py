"""Mask algebra: against definitions spelt out pixel by pixel, and on the sizes that people have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from faceparse_core import masks
from faceparse_core.masks import distances, tools


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
@given(seed=st.integers(0, 999), density=st.sampled_from([0, 0.05, 0.5, 1]), distance=st.sampled_from([1, 2, 5, 40]))
def test_hard_masks_grow_by_what_is_within_the_distance_and_stay_hard(seed, density, distance):
    mask = random_mask(seed, 1, density)
    grown, shrunk = masks.grown(mask, distance)[0], masks.grown(mask, -distance)[0]
    assert torch.equal(grown, grown_by_definition(mask, distance))
    assert torch.equal(shrunk, 1 - grown_by_definition(1 - mask, distance))


def ramped(size: int, radius: float, width: float) -> torch.Tensor:
    """A disc whose edge is a linear ramp of a width, its centre nowhere in particular."""
    places = torch.arange(size) + 0.5
    distance = ((places - size / 2 - 0.3)[None] ** 2 + (places - size / 2 + 0.2)[:, None] ** 2).sqrt()
    return (0.5 + (radius - distance) / width).clamp(0, 1)


@pytest.mark.parametrize("width", [1, 3, 20])
@pytest.mark.parametrize("distance", [-31.25, -4, -0.5, 0.3, 1, 7.5, 60])
def test_soft_edges_move_by_fractions_of_a_pixel_and_keep_their_softness(width, distance):
    moved = masks.grown(ramped(260, 60, width), distance)[0]
    wrong = (moved - ramped(260, 60 + distance, width)).abs().max().item()
    assert wrong * width < 0.5  # a ramp of w pixels falls by 1/w in each
    assert moved.sum().sqrt().item() == pytest.approx(ramped(260, 60 + distance, width).sum().sqrt().item(), abs=0.3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), distance=st.sampled_from([0.5, 1.0, 3.0, 12.0]))
def test_growing_any_soft_mask_takes_nothing_away_and_stays_within_the_distance(seed, distance):
    small = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(seed))
    mask = torch.nn.functional.interpolate(small, size=(26, 31), mode="bilinear")[0, 0]
    grown, shrunk = masks.grown(mask, distance)[0], masks.grown(mask, -distance)[0]
    assert (grown >= mask).all() and (shrunk <= mask).all()
    half = (mask.min() + mask.max()) / 2
    inside = (mask >= half).float()
    assert not ((grown > half + 1e-5) & (grown_by_definition(inside, distance + 1.5) == 0)).any()
    assert not ((grown < half - 1e-5) & (grown_by_definition(inside, max(0, distance - 1.5)) > 0)).any()
    assert grown.min() >= 0 and grown.max() <= 1


def test_a_thin_soft_strand_has_no_seam_when_it_grows():
    strand = torch.zeros(40, 40)
    strand[:, 19:22] = torch.tensor([0.4, 0.9, 0.4])
    grown = masks.grown(strand, 6)[0]
    assert (grown[5:35, 14:27] > 0.8).all() and (grown[:, :11] < 0.05).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), density=st.sampled_from([0.0002, 0.01, 0.5]), blobs=st.booleans())
def test_distances_are_exact_near_the_edge_and_within_half_a_pixel_far_from_it(seed, density, blobs):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 260, 2)
    inside = rng.random((2, height, width)) < density
    if blobs:
        inside = ndimage.gaussian_filter(rng.random((2, height, width)), (0, 12, 12))
        inside = inside > np.quantile(inside, 0.8)
    found, _ = distances.border_pixels(inside).distances(0, 1e6)
    for one, is_in in zip(found, inside, strict=True):
        if not is_in.any() or is_in.all():
            assert np.isinf(one).all()
            continue
        exact = ndimage.distance_transform_edt(~is_in)
        wrong = (one - exact)[~is_in]
        assert np.abs(wrong).max() < 0.5
        assert np.abs(wrong[exact[~is_in] < distances.EXACT]).max(initial=0) < 1e-3


def test_three_million_pixels_grow_by_500():
    mask = torch.zeros(1, 1733, 1733)
    mask[0, 866, 866] = 1
    grown = masks.grown(mask, 500)
    assert grown.sum().item() == pytest.approx(math.pi * 500**2, rel=1e-3)
    assert grown[0, 866, 1366] == 1 and grown[0, 866, 1367] == 0
    assert torch.equal(masks.grown(grown, -500), mask)
    assert masks.feathered(mask, 500, "outward").sum() > 1000


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), radius=st.sampled_from([1, 2, 4]))
def test_opening_and_closing_once_is_as_good_as_twice(seed, radius):
    mask = torch.nn.functional.max_pool2d(random_mask(seed, 1, 0.1, (40, 50))[None], 3, 1, 1)
    opened, closed = masks.opened(mask, radius), masks.closed(mask, radius)
    assert (opened <= mask).all() and (closed >= mask).all()
    assert torch.equal(masks.opened(opened, radius), opened)
    assert torch.equal(masks.closed(closed, radius), closed)


def test_opening_removes_a_hair_and_closing_a_gap():
    mask = disc(60, 20)
    hair = mask.clone()
    hair[29:31] = 1
    assert (masks.opened(hair, 3)[0] - masks.opened(mask, 3)[0]).abs().sum() < 30
    assert not masks.opened(hair, 3)[0, 30, :5].any()
    gap = mask.clone()
    gap[29:31] = 0
    assert masks.closed(gap, 3)[0, 30, 15:45].all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), sigma=st.floats(0.2, 60))
def test_blurring_keeps_the_sum_and_two_blurs_are_one(seed, sigma):
    mask = torch.rand(2, 23, 31, generator=torch.Generator().manual_seed(seed))
    blurred = masks.blurred(mask, sigma)
    assert torch.allclose(blurred.sum((1, 2)), mask.sum((1, 2)), rtol=1e-4)
    assert blurred.min() >= mask.min() and blurred.max() <= mask.max()
    twice = masks.blurred(masks.blurred(mask, sigma * 0.6), sigma * 0.8)
    assert torch.allclose(blurred, twice, atol=1e-4)


def test_a_blurred_point_is_a_gaussian():
    point = torch.zeros(101, 101)
    point[50, 50] = 1
    places = torch.arange(101) - 50.0
    bell = torch.exp(-(places**2) / (2 * 8**2))
    assert torch.allclose(masks.blurred(point, 8)[0], bell[:, None] * bell / bell.sum() ** 2, atol=1e-5)


def test_smoothing_straightens_stairs_and_leaves_the_edge_where_it_is():
    places = torch.arange(120)
    stairs = (places[None] > (places[:, None] // 8) * 8).float()  # steps of 8 pixels along the diagonal
    straight = masks.smoothed(stairs, 16)[0]
    inner = slice(30, 90)
    edge = (1 - straight[inner]).sum(1) - places[inner]  # how far to the right of the diagonal each row begins
    assert edge.std() < 0.5 < (1 - stairs[inner]).sum(1).sub(places[inner]).std()
    half = torch.zeros(40, 40)
    half[:, 20:] = 1
    assert torch.allclose(masks.smoothed(half, 10)[0], half, atol=0.03)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), hard=st.booleans())
def test_each_mask_of_a_batch_comes_out_as_it_does_alone(seed, hard):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 7, generator=generator), size=(40, 47), mode="bilinear")
    batch = batch[0].round() if hard else batch[0]
    batch[1] = batch[1].round()  # hard and soft ones mixed
    for done in (
        lambda mask: masks.grown(mask, 4),
        lambda mask: masks.grown(mask, -2.5),
        lambda mask: masks.grown(mask, 12.5),
        lambda mask: masks.feathered(mask, 9, "inward"),
        lambda mask: masks.filled(mask),
        lambda mask: masks.keep_parts(mask, smallest=20, largest=2),
        lambda mask: masks.blurred(mask, 3),
        lambda mask: masks.smoothed(mask, 5),
    ):
        together = done(batch)
        assert together.min() >= 0 and together.max() <= 1
        for one, expected in zip(batch, together, strict=True):
            assert torch.allclose(done(one)[0], expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_in_and_float32_goes_out(dtype):
    mask = ramped(50, 12, 6).to(dtype)
    for result in (
        masks.grown(mask, 2),
        masks.feathered(mask, 3),
        masks.filled(mask),
        masks.keep_parts(mask, largest=1),
        masks.blurred(mask, 2),
        masks.smoothed(mask, 2),
        masks.combine([mask, mask.float()]),
        masks.edit(mask),
    ):
        assert result.dtype == torch.float32 and result.shape == (1, 50, 50)
        assert not result.isnan().any()


def test_what_is_given_is_not_written_to():
    mask = ramped(50, 12, 6)
    before = mask.clone()
    for result in (masks.grown(mask, 0), masks.filled(mask), masks.edit(mask, grow=1, feather=2, fill_holes=True)):
        result.zero_()
        assert torch.equal(mask, before)


def test_a_mask_that_reaches_the_border_does_not_shrink_from_there():
    half = torch.zeros(20, 20)
    half[:, :10] = 1
    shrunk = masks.edit(half, grow=-3)[0]
    assert torch.equal(shrunk[:, :7], torch.ones(20, 7)) and not shrunk[:, 7:].any()


@pytest.mark.parametrize("amount", [-700, -1, 0, 1, 700])
def test_empty_and_full_masks_stay_what_they_are(amount):
    for full in (torch.zeros(2, 9, 9), torch.ones(2, 9, 9)):
        done = masks.edit(full, grow=amount, feather=abs(amount), fill_holes=True)
        assert torch.allclose(done, full, atol=1e-6)


def test_holes_are_filled_and_bays_are_not():
    ring = disc(40, 15) - disc(40, 8)
    assert torch.equal(masks.edit(ring, fill_holes=True)[0], disc(40, 15))
    bay = ring.clone()
    bay[18:22, 20:] = 0  # now the hole is open to the outside
    assert torch.equal(masks.edit(bay, fill_holes=True)[0], bay)
    cut = torch.ones(10, 10)
    cut[0, 4:6] = 0  # at the border of the image: no hole
    assert torch.equal(masks.edit(cut, fill_holes=True)[0], cut)
    # The soft rim of a hole is filled up with it.
    soft = torch.nn.functional.avg_pool2d(ring[None, None], 5, 1, 2)[0]
    assert (masks.edit(soft, fill_holes=True)[0, 18:22, 18:22] == 1).all()


def test_specks_go_and_what_is_large_enough_stays_to_the_pixel():
    mask = disc(50, 10)
    specks = mask.clone()
    specks[2, 2:5] = 1
    specks[45, 45] = 1
    assert torch.equal(masks.edit(specks, remove_specks=4)[0], mask)
    assert masks.edit(specks, remove_specks=3)[0, 2, 3] == 1
    assert not masks.edit(specks, remove_specks=10_000).any()


def test_only_the_largest_parts_are_kept_mask_by_mask():
    large, middle, small = disc(60, 10, 15, 15), disc(60, 6, 45, 15), disc(60, 3, 45, 45)
    both = torch.stack([large + middle + small, small + middle])
    assert torch.equal(masks.keep_parts(both, largest=2), torch.stack([large + middle, small + middle]))
    assert torch.equal(masks.keep_parts(both, largest=1), torch.stack([large, middle]))
    assert torch.equal(masks.keep_parts(both, largest=9), both)
    corner = torch.eye(4)  # pixels that touch by their corners are not connected
    assert masks.keep_parts(corner, largest=1).sum() == 1


def test_a_soft_speck_goes_with_its_rim():
    blob, speck = ramped(80, 20, 8), torch.zeros(80, 80)
    speck[4:9, 4:9] = torch.tensor([0.2, 0.6, 0.9, 0.6, 0.2]).sqrt()[:, None] * torch.tensor([0.2, 0.6, 0.9, 0.6, 0.2])
    assert torch.equal(masks.keep_parts(blob + speck, smallest=40)[0], blob)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), density=st.sampled_from([0.1, 0.4, 0.6, 0.9]))
def test_holes_and_parts_are_those_of_scipy(seed, density):
    batch = torch.stack([random_mask(seed + i, 1, density, (30, 40)) for i in range(3)])
    for one, filled, large in zip(batch, masks.filled(batch), masks.keep_parts(batch, smallest=5), strict=True):
        assert np.array_equal(filled.numpy() > 0, ndimage.binary_fill_holes(one.numpy() > 0))
        pieces, _ = ndimage.label(one.numpy())
        sizes = np.bincount(pieces.ravel())
        assert np.array_equal(large.numpy() > 0, (one.numpy() > 0) & (sizes[pieces] >= 5))


def test_where_nothing_is_to_be_done_soft_values_come_back_unchanged():
    soft = torch.rand(2, 30, 30)
    assert torch.equal(masks.edit(soft), soft)
    assert torch.equal(masks.edit(soft, remove_specks=1), soft)
    large = disc(30, 12) * 0.7
    assert torch.equal(masks.edit(large, fill_holes=True, remove_specks=5)[0], large)


@pytest.mark.parametrize("width", [1, 4, 21])
def test_feathering_stays_on_its_side(width):
    mask = torch.zeros(60, 60)
    mask[:, 30:] = 1
    inward, outward, both = (
        masks.edit(mask, feather=width, direction=side)[0, 30] for side in masks.DIRECTIONS[1:] + masks.DIRECTIONS[:1]
    )
    assert not inward[:30].any() and (inward[30 + width :] == 1).all()
    assert (outward[30:] == 1).all() and not outward[: 30 - width].any()
    assert torch.allclose(both + both.flip(0), torch.ones(60), atol=1e-5)  # centred on the edge
    for ramp in (inward, outward, both):
        assert (ramp.diff() >= -1e-6).all()
        assert (ramp > 0).sum() + (ramp < 1).sum() <= 60 + width + 1  # no wider than was asked


def test_progress_is_told_and_may_stop_the_work(monkeypatch):
    monkeypatch.setattr(tools, "_PIXELS", 64)  # as many masks at a time as have so many pixels
    seen = []
    masks.edit(torch.rand(3, 8, 8), grow=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        masks.edit(torch.rand(3, 8, 8), progress=stop)


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
        masks.edit(mask)
    with pytest.raises(ValueError, match=message):
        masks.combine([mask, mask])


def test_values_beyond_the_range_are_clamped_and_bad_arguments_told():
    assert masks.as_mask(torch.tensor([[-1.0, 2.0]])).tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="sideways"):
        masks.edit(A, direction="sideways")
    with pytest.raises(ValueError, match="feather"):
        masks.edit(A, feather=-1)
    with pytest.raises(ValueError, match="xor"):
        masks.combine([A, B], "xor")
    with pytest.raises(ValueError, match="no mask"):
        masks.combine([])
