"""A second of each campaign in the ordinary run; the same seeds each time. For the long run see ``tests.fuzz``."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceparse_core.faces import from_boxes
from faceparse_core.labels import LABELS, region_ids, resolve
from tests.fuzz.campaigns import CAMPAIGNS
from tests.fuzz.running import run, within


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaign(name):
    count, problems = within(1.0, CAMPAIGNS[name], most=200)
    assert count and not problems, "\n".join(f"python -m tests.fuzz --only {line}\n{whole}" for line, whole in problems)


def test_a_case_that_fails_is_told_with_its_seed():
    def wrong(random, folder):
        raise IndexError(random.random())

    line, whole = run(wrong, 7)
    assert line.startswith("wrong --seed 7: IndexError: 0.") and "Traceback" in whole
    assert run(wrong, 7)[0] == line  # the same case again
    assert within(9, wrong, first=7, most=3) == (3, [run(wrong, seed) for seed in (7, 8, 9)])
    assert run(lambda random, folder: json.loads("{"), 0) is None


WORDS = [label.title for label in LABELS] + [
    "face",
    "cheeks",
    "t-zone",
    "left",
    "+",
    "-",
    ",",
    " ",
    "_",
    "é",
    "\0",
    "(",
]


@settings(max_examples=60)
@given(
    st.one_of(
        st.text(st.characters(max_codepoint=0x2FF), max_size=40),
        st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    )
)
def test_any_text_is_a_region_or_a_sentence(text):
    try:
        region = resolve(text)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        assert region.ids or region.drawn
        assert region.drawn or region_ids(text) == region.ids


NUMBERS = st.one_of(st.floats(), st.integers(-(10**6), 10**6), st.none(), st.text(max_size=3))


@settings(max_examples=60)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=3))
def test_any_box_lies_in_its_picture_or_is_a_sentence(boxes):
    try:
        (faces,) = from_boxes([list(boxes)], [(60, 80)])
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        for face in faces:
            assert 0 <= face.x < face.x + face.width <= 80 and 0 <= face.y < face.y + face.height <= 60
            assert math.isfinite(face.score)


def test_there_is_a_campaign_for_each_of_what_comes_in():
    assert {"pictures", "arrays", "expressions", "boxes", "mask_tools", "checkpoints", "downloads"} <= set(CAMPAIGNS)
    assert {"command_line", "workflows"} <= set(CAMPAIGNS)  # and page_server where there is node
    assert torch.get_default_dtype() == torch.float32  # and none of them leaves anything behind
