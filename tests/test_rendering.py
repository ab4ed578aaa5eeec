"""Rendering from small logits, against torch's own upsampling at full size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core import rendering
from faceparse_core.rendering import Window, bilinear

_LABELS = 19


@pytest.fixture(params=[1, 5000, 1 << 22], autouse=True)
def band_bytes(request, monkeypatch):
    """Whatever is rendered at a time, the result is the same."""
    monkeypatch.setattr(bilinear, "_BAND_BYTES", request.param)


def random_logits(seed: int, cells: tuple[int, int], patch: int) -> torch.Tensor:
    """Logits in patches of one winner each, with noise; a ``patch`` of 1 is all noise."""
    noise = torch.randn(_LABELS, *cells, generator=torch.Generator().manual_seed(seed))
    if patch == 1:
        return noise
    coarse = noise[:, ::patch, ::patch].repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return 3 * coarse[:, : cells[0], : cells[1]] + 0.1 * noise


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    patch=st.sampled_from([1, 4, 7, 20]),
)
def test_what_is_rendered_equals_upsampling_the_whole(seed, size, cells, patch):
    logits, window = random_logits(seed, cells, patch), Window(0, 0, size[1], size[0])
    # In float64: in float32 torch's own is further off than ours.
    expected = F.interpolate(logits[None].double(), size=size, mode="bilinear", align_corners=False)[0].float()

    labels = rendering.labels(logits, window, size)
    assert labels.dtype == torch.uint8
    # The greatest of all, up to rounding where two are equal.
    assert (expected.amax(0) - expected.gather(0, labels[None].long())[0]).max() < 1e-5

    rows, values = zip(*rendering.bands(logits, window, size), strict=True)
    assert torch.allclose(torch.cat(values, dim=1), expected, atol=1e-5)
    assert [r for band in rows for r in range(size[0])[band]] == list(range(size[0]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    x=st.floats(-60, 60),
    y=st.floats(-60, 60),
    length=st.tuples(st.floats(5, 200), st.floats(5, 200)),
    patch=st.sampled_from([1, 4, 20]),
)
def test_labels_in_any_window_are_those_of_its_bands(seed, x, y, length, patch):
    logits, window, size = random_logits(seed, (16, 16), patch), Window(x, y, *length), (48, 64)
    bands = torch.cat([values for _, values in rendering.bands(logits, window, size)], dim=1)
    chosen = bands.gather(0, rendering.labels(logits, window, size)[None].long())[0]
    assert (bands.amax(0) - chosen).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    x=st.floats(-60, 60),
    y=st.floats(-60, 60),
    length=st.tuples(st.floats(5, 700), st.floats(5, 700)),
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    patch=st.sampled_from([1, 4, 7, 20]),
    steep=st.sampled_from([0.3, 1, 4, 12]),
    regions=st.lists(st.sets(st.integers(0, _LABELS - 1)), min_size=1, max_size=3),
)
def test_soft_masks_are_within_a_512th_of_the_sums_of_all_probabilities(
    seed, x, y, length, cells, patch, steep, regions
):
    logits, window, size = steep * random_logits(seed, cells, patch), Window(x, y, *length), (48, 64)
    shares = torch.cat([values for _, values in rendering.bands(logits, window, size)], dim=1).double().softmax(0)
    out = torch.empty(len(regions), *size)
    rendering.soft_masks(logits, window, regions, out)
    for mask, region in zip(out, regions, strict=True):
        assert (mask - shares[sorted(region)].sum(0)).abs().max() <= 1 / 512
        assert mask.min() >= 0
        assert mask.max() <= 1


def test_soft_masks_are_the_same_by_any_number_of_threads():
    logits, window, size = 3 * random_logits(5, (16, 20), 4), Window(-9, 4, 210.5, 190.25), (200, 190)
    masks, before = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            masks.append(torch.empty(1, *size))
            rendering.soft_masks(logits, window, [[0, 3, 13]], masks[-1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_a_thin_line_between_two_samples_is_not_lost():
    # At no sample is label 2 the greatest, but half-way between two of them it is.
    logits = torch.zeros(_LABELS, 4, 4)
    logits[0, :, :2] = logits[1, :, 2:] = 10
    logits[2] = 6
    labels = rendering.labels(logits, Window(0, 0, 64, 64), (64, 64))
    assert labels.unique().tolist() == [0, 1, 2]


def test_the_kernel_for_gpus_gives_the_same_labels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    from faceparse_core.rendering import triton_kernel

    logits, window, size = torch.randn(_LABELS, 24, 20), Window(-30, -9, 600, 90), (64, 513)
    across = rendering.samples(size[1], window.x, window.width, 20, logits.device)
    down = rendering.samples(size[0], window.y, window.height, 24, logits.device)
    assert torch.equal(triton_kernel.labels(logits, across, down), rendering.labels(logits, window, size))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 300)),
    patch=st.sampled_from([1, 7, 40]),
    kind=st.sampled_from(["uint8", "float", "grey"]),
    opacity=st.sampled_from([0.0, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
def test_colours_laid_over_a_picture_pixel_by_pixel(size, patch, kind, opacity, seed):
    random = torch.Generator().manual_seed(seed)
    height, width = size
    small = torch.randint(_LABELS, (height // patch + 1, width // patch + 1), generator=random, dtype=torch.uint8)
    labels = small.repeat_interleave(patch, 0).repeat_interleave(patch, 1)[:height, :width]
    image = torch.randint(256, (height, width, 3), generator=random, dtype=torch.uint8)
    values = image / 255
    if kind == "grey":
        image = image[..., :1].expand(-1, -1, 3)
        values = image / 255
    elif kind == "float":
        image = values
    colours = torch.rand(_LABELS, 3, generator=random)
    strength = torch.tensor([0.0, *[opacity] * (_LABELS - 1)])
    out = torch.full((height, width, 3), torch.nan)
    rendering.lay_over(image, labels, colours, strength, out)
    shares = strength[labels.long()][..., None]
    expected = values * (1 - shares) + colours[labels.long()] * shares
    assert torch.allclose(out, expected, atol=1e-6)
    if kind == "float":
        assert torch.equal(out[labels == 0], values[labels == 0])
