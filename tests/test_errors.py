"""Errors for the person: bounds of numbers, and what libraries raise told in words of ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from faceparse_core import errors, masks
from faceparse_core.errors import CheckpointError, explained, number
from faceparse_core.faces import Face, crop_faces, cut, from_boxes, windows
from faceparse_core.rendering import Window

NO_NUMBERS = ["x", None, math.nan, math.inf, -math.inf, 1e300, 10**400, True, [1], 1j]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_within_its_bounds(value):
    with pytest.raises(ValueError, match=r"the radius must be a number from 0 to 1,000,000, not"):
        number("the radius", value, 0)


def test_numbers_of_all_kinds():
    assert number("n", np.float32(0.5)) == 0.5 and number("n", np.int64(3), whole=True) == 3
    assert isinstance(number("n", 3.0, whole=True), int)
    with pytest.raises(ValueError, match="whole number of 1 or more"):
        number("n", 1.5, 1, math.inf, whole=True)
    with pytest.raises(ValueError):
        number("n", math.inf, 0, math.inf)


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to "
                      "allocate 4 bytes."), MemoryError, "smaller picture"),
        (RuntimeError("MPS backend out of memory"), MemoryError, "smaller picture"),
        (RuntimeError("std::bad_alloc"), MemoryError, "smaller picture"),
        (OSError(12, "Cannot allocate memory"), MemoryError, "smaller picture"),
        (MemoryError(), MemoryError, "the work: there is not enough"),
        (SyntaxError("broken PNG file"), ValueError, "the work: broken PNG file"),
        (IndexError(), ValueError, "the work: IndexError"),
        (RuntimeError("a\n  long " + "story " * 500), ValueError, "a long story story"),
        (FileNotFoundError("gone"), FileNotFoundError, "gone"),
        (CheckpointError("other labels"), CheckpointError, "other labels"),
    ],
)  # fmt: skip
def test_what_libraries_raise(raised, becomes, says):
    with pytest.raises(becomes, match=says) as caught, explained("the work"):
        raise raised
    assert len(str(caught.value)) < 400


def test_interruptions_pass():
    with pytest.raises(KeyboardInterrupt), explained("the work"):
        raise KeyboardInterrupt


# ---------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 1, 1), (2, 1, 40), (1, 33, 2)])
@pytest.mark.parametrize("value", [100, 33.3, 0.25, 1e-300, 1e6])
def test_mask_tools_take_every_size_and_distance(shape, value):
    """Tiny masks used to end in an IndexError: cells reach beyond them."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for given in (mask, mask.round()):
        for result in (
            masks.grown(given, value), masks.grown(given, -value), masks.feathered(given, value),
            masks.feathered(given, value, "inward"), masks.blurred(given, value), masks.smoothed(given, value),
            masks.opened(given, value), masks.closed(given, value),
        ):  # fmt: skip
            assert result.shape == given.shape and result.min() >= 0 and result.max() <= 1  # not so with NaN


@pytest.mark.parametrize("value", [1e300, 1e308, math.nan, "x", None])
@pytest.mark.parametrize(
    "tool",
    [
        masks.grown, masks.feathered, masks.blurred, masks.smoothed, masks.opened, masks.closed,
        lambda mask, value: masks.edit(mask, blur_sigma=value),
        lambda mask, value: masks.edit(mask, remove_specks=value if isinstance(value, str) else -1),
        lambda mask, value: masks.keep_parts(mask, smallest=value if isinstance(value, str) else -1),
        lambda mask, value: masks.refine(torch.rand(5, 5, 3), mask, radius=value),
        lambda mask, value: masks.refine(torch.rand(5, 5, 3), mask, strength=value),
    ],
)  # fmt: skip
def test_mask_tools_refuse_what_is_no_distance(tool, value):
    with pytest.raises(ValueError, match="must be"):
        tool(torch.rand(1, 5, 5), value)


@pytest.mark.parametrize(
    "mask",
    [
        torch.empty(1, 4, 4, device="meta"), torch.rand(4, 4).to_sparse(), torch.rand(4, 4).to(torch.complex64),

    ],
)  # fmt: skip
def test_masks_that_hold_no_values(mask):
    with pytest.raises(ValueError, match="dense"):
        masks.as_mask(mask)


# ---------------------------------------------------------------------------------------------- boxes


def test_boxes_are_cut_off_at_the_border():
    assert from_boxes([(-20, 30, 70, 500)], [(90, 100)]) == [[Face(0, 0, 30, 50, 60)]]


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((0, 0, 5500, 10), "more than 10 times as large"), ((0, 0, 1e6, 1e6), "more than 10 times"),
        ((0, 0, 1e300, 1), "more than 10 times"), ((0, 0, 10**400, 1), "x, y, width, height"),
        ((100.2, 0, 5, 5), "outside"), ("abcd", "x, y, width, height"),
    ],
)  # fmt: skip
def test_boxes_of_another_picture(box, says):
    with pytest.raises(ValueError, match=says):
        from_boxes([[box]], [(90, 100)])


@pytest.mark.parametrize("boxes", [[7], [None], ["ab"], [{1, 2}]])
def test_what_is_no_list_of_boxes(boxes):
    with pytest.raises(ValueError, match="box"):
        from_boxes(boxes, [(90, 100)])
    with pytest.raises(ValueError, match="list of boxes"):
        from_boxes([*boxes, []], [(90, 100), (90, 100)])


def test_a_window_far_larger_than_its_image_costs_no_more_than_the_image(monkeypatch):
    made = []
    padded = windows.padded
    monkeypatch.setattr(windows, "padded", lambda *given: made.append(padded(*given)) or made[-1])
    image = torch.zeros(100, 400, 3, dtype=torch.uint8)
    image[:, 200:] = 200
    for angle in (0.0, 30.0):
        # A hundred times as wide as the picture, which lies in the middle.
        piece = cut(image, Window(200 - 20_000, 50 - 20_000, 40_000, 40_000, angle), 640, (0.5, 0.5, 0.5))
        assert piece.shape == (640, 640, 3) and max(made[-1].shape) <= 4200
        left, right = piece[318:322, 317:319].float().mean(), piece[318:322, 321:323].float().mean()
        assert right - left > 60 and piece[:300].float().mean() == pytest.approx(127.5, abs=0.6)


@pytest.mark.parametrize(
    ("faces", "options", "says"),
    [
        ("junk", {}, "list of faces"), (None, {}, "list of faces"), ([[(1, 2, 3, 4)]], {}, "has not"),
        ([[Face(0, 1, 1, 1_000_000, 9)]], {"size": 64}, None), ([[Face(0, 1, 1, 0, 9)]], {}, "width must be"),
        ([[Face(0, math.nan, 1, 5, 9)]], {}, "x must be"), ([[Face(0, 1, 1, 5, 9, math.inf)]], {}, "angle must be"),
        ([[Face(0, 1, 1, 5, 9)]], {"size": None}, "size must be"),
        ([[Face(0, 1, 1, 5, 9)]], {"size": 10**6}, "size must be"),
        ([[Face(0, 1, 1, 5, 9)]], {"padding": "x"}, "padding must be"),
        ([[Face(0, 500, 500, 5000, 9)]], {}, "outside"),
    ],
)  # fmt: skip
def test_crops_of_junk(faces, options, says):
    image = torch.zeros(1, 40, 50, 3)
    if says is None:
        crops, _, places = crop_faces(image, faces, **options)
        assert crops.shape == (1, 64, 64, 3) and places.places[0].side <= 50
    else:
        with pytest.raises(ValueError, match=says):
            crop_faces(image, faces, **options)


def test_crops_and_their_masks_end_at_1():
    image = torch.ones(1, 400, 500, 3)
    for padding in (0.3, 0.45, 1.7):
        crops, shown, _ = crop_faces(image, [[Face(0, 90, 70, 131, 177)]], size=96, padding=padding)
        assert crops.max() <= 1 and shown.max() <= 1


def test_without_a_home_directory(monkeypatch):
    def none(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", none)
    assert str(errors.expanded("~/x")) == "~/x"
