"""Windows: how looks are sampled, cut and mixed."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core.faces import Look, compose, cut, cuts, resampled
from faceparse_core.images import as_float
from faceparse_core.labels import NUM_LABELS
from faceparse_core.rendering import Window, labels

GREY = (0.5, 0.4, 0.3)


def looked(window, cells, seed=0, channels_last=True):
    logits = torch.randn(*cells, NUM_LABELS, generator=torch.Generator().manual_seed(seed)).permute(2, 0, 1)
    return Look(logits if channels_last else logits.contiguous(), window)


@given(
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    place=st.tuples(st.floats(-30, 60), st.floats(-30, 60), st.floats(5, 90)),
    angle=st.floats(-180, 180),
    channels_last=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_look_is_sampled_as_pictures_are(cells, place, angle, channels_last):
    """Bilinear, beyond the border as at it: what torch's ``grid_sample`` does."""
    look = looked(Window(0, 0, 60, 40), cells, channels_last=channels_last)
    x, y, side = place
    like = looked(Window(x, y, side, side, angle), (9, 7), seed=1)
    sampled = resampled(look, like).logits
    across, down = torch.meshgrid((torch.arange(7) + 0.5) / 7 - 0.5, (torch.arange(9) + 0.5) / 9 - 0.5, indexing="xy")
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    at_x = x + side / 2 + side * (cosine * across - sine * down)
    at_y = y + side / 2 + side * (sine * across + cosine * down)
    grid = torch.stack([at_x / 30 - 1, at_y / 20 - 1], -1)[None]
    expected = F.grid_sample(look.logits[None].contiguous(), grid, padding_mode="border", align_corners=False)[0]
    torch.testing.assert_close(sampled, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [64, 60])
def test_pieces_are_cut_together_as_alone(size):
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8, generator=generator)
    second = torch.rand(70, 50, 3, generator=generator)
    windows = [Window(-10, 20, 60, 60), Window(30, 10, 80, 80, 33.0)]
    same = cuts([(first, window) for window in windows], size, GREY)
    assert same.dtype == torch.uint8 and same.shape == (2, size, size, 3)
    mixed = cuts([(first, windows[0]), (second, windows[1])], size, GREY)
    assert mixed.dtype == torch.float32
    for n, window in enumerate(windows):
        assert torch.equal(same[n], cut(first, window, size, GREY))
    assert torch.equal(mixed[0], as_float(cut(first, windows[0], size, GREY)))
    assert torch.equal(mixed[1], cut(second, windows[1], size, GREY))


def painted(scene, size):
    """The labels of a scene: its looks over each other on background."""
    field = torch.zeros(size, dtype=torch.uint8)
    for look in scene.looks:
        x, y, width, height = (round(v) for v in (look.window.x, look.window.y, look.window.width, look.window.height))
        field[y : y + height, x : x + width] = labels(look.logits, Window(0, 0, width, height), (height, width))
    return field


def of_label(label, window, cells=32, angle=0.0):
    logits = torch.full((NUM_LABELS, cells, cells), -5.0)
    logits[label] = 5.0
    return Look(logits, window)


@pytest.mark.parametrize("angle", [0.0, 20.0])
def test_where_windows_meet_the_nearer_counts(angle):
    """Whatever their order: the smaller is painted over the larger, and what it hides of that is not computed."""
    large, small = Window(20, 20, 120, 120), Window(110, 60, 60, 60, angle)
    whole = of_label(17, Window(0, 0, 200, 200))  # a neck
    details = [of_label(13, large), of_label(14, small)]  # hair, a hat
    one, other = (painted(compose(whole, (200, 200), some), (200, 200)) for some in (details, details[::-1]))
    assert torch.equal(one, other)
    assert one[80, 80] == 13 and one[90, 145] == 14
    assert one[80, 112] == 13 and one[90, 132] == 14  # both are seen from both windows
