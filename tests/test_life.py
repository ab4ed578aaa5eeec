"""What lies before faces and what happens to pictures: truth and pixels stay together, nothing leaves its range."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from faceparse_core import FaceParser
from faceparse_core.labels import region_ids
from faceparse_core.training import covers
from faceparse_core.training.wear import Wear, worn


@pytest.fixture(scope="module")
def face():
    """A real portrait and the mask that lite makes of it."""
    from pathlib import Path

    image = Image.open(Path(__file__).parents[1] / "samples" / "closeup.jpg").convert("RGB").resize((256, 256))
    return image, Image.fromarray(FaceParser("lite", "cpu").parse(image, faces="image").labels[0].numpy())


def grey() -> np.ndarray:
    return np.full((64, 64, 3), 128, np.uint8)


@pytest.mark.parametrize("kind", ["surgical_mask", "hand", "thing"])
def test_what_is_covered_is_background_and_the_rest_as_it_was(face, kind):
    image, mask = face
    changed = 0
    for seed in range(6):
        rest = () if kind == "hand" else (grey,)
        picture, labels = getattr(covers, kind)(image, mask, np.random.default_rng(seed), *rest)
        before, after = np.asarray(mask), np.asarray(labels)
        hidden = before != after
        assert set(np.unique(after[hidden])) <= {0}
        far = np.abs(np.asarray(picture).astype(int) - np.asarray(image)).max(-1) > 8
        # Pixels change where the labels do, and at the soft edge; where it hides background, no label changes.
        grown = np.asarray(Image.fromarray(hidden.astype(np.uint8) * 255).resize((64, 64), Image.BOX)) > 0
        grown = np.asarray(Image.fromarray(grown).resize((256, 256)))
        assert (far & ~grown & (before > 0)).mean() < 0.01
        changed += hidden.mean() > 0.003
    assert changed >= 4


def test_a_surgical_mask_hides_mouth_and_chin_but_no_eyes(face):
    image, mask = face
    lips, eyes = list(region_ids("lips + mouth")), list(region_ids("eyes"))
    for seed in range(8):
        _, labels = covers.surgical_mask(image, mask, np.random.default_rng(seed), grey)
        before, after = np.asarray(mask), np.asarray(labels)
        assert np.isin(after, lips).sum() < 0.1 * np.isin(before, lips).sum()
        assert np.isin(after, eyes).sum() == np.isin(before, eyes).sum()


def test_without_a_face_nothing_is_covered():
    image, mask = Image.new("RGB", (64, 64), (9, 9, 9)), Image.new("L", (64, 64))
    for seed in range(5):
        assert covers.cover(image, mask, np.random.default_rng(seed), grey) == (image, mask)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Wear)])
def test_each_wear_changes_the_picture_and_keeps_its_range(face, name):
    pixels = np.asarray(face[0], np.float32) / 255
    after = worn(pixels, Wear.none(**{name: 1.0 if name not in ("tint",) else 0.2}), np.random.default_rng(3))
    assert after.shape == pixels.shape and after.dtype == np.float32
    assert after.min() >= 0 and after.max() <= 1 and np.isfinite(after).all()
    assert np.abs(after - pixels).mean() > 0.002, name


def test_no_wear_leaves_the_picture_alone(face):
    pixels = np.asarray(face[0], np.float32) / 255
    assert np.abs(worn(pixels, Wear.none(), np.random.default_rng(0)) - pixels).max() < 1e-5
