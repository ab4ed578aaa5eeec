"""Rendering: labels and masks from small logits, against torch's own full-size upsampling."""

from __future__ import annotations

import pytest
import torch

from faceparse_core.faces import Face, find_faces
from faceparse_core.labels import LABELS, NUM_LABELS
from faceparse_core.parsing import NO_FACE, Details, Parsing
from faceparse_core.rendering import Window


def whole(size: tuple[int, int]) -> Window:
    return Window(0, 0, size[1], size[0])


def parsing_of(logits: torch.Tensor, *sizes: tuple[int, int]) -> Parsing:
    return Parsing([logits] * len(sizes), [whole(size) for size in sizes], sizes)


def squares(**boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """A label map of 64x64 with rectangles (x, y, width, height), by published name."""
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    for label in LABELS:
        if label.name in boxes:
            x, y, width, height = boxes[label.name]
            labels[y : y + height, x : x + width] = label.id
    return labels


def test_a_window_that_reaches_beyond_the_image_is_cut_to_it():
    logits = torch.randn(NUM_LABELS, 16, 16)
    size = (64, 64)
    whole_picture = parsing_of(logits, size).labels[0]
    # The image is the middle half of what the network saw.
    part = Parsing([logits], [Window(-16, -16, 64, 64)], [(32, 32)]).labels[0]
    assert torch.equal(part, whole_picture[16:48, 16:48])


def test_several_masks_in_one_pass_equal_each_alone():
    parsing = parsing_of(torch.randn(NUM_LABELS, 12, 12) * 4, (50, 40), (50, 40))
    regions = ["hair", "face - eyes", "person"]
    for soft in (False, True):
        alone = torch.stack([parsing.mask(region, soft=soft) for region in regions])
        assert torch.allclose(parsing.masks(regions, soft=soft), alone, atol=1e-6)


def test_soft_masks_add_up_to_one_and_hard_ones_split_the_image():
    parsing = parsing_of(torch.randn(NUM_LABELS, 12, 12) * 4, (50, 40), (50, 40))
    soft = sum(parsing.mask(label.name, soft=True) for label in LABELS)
    hard = sum(parsing.mask(label.name) for label in LABELS)
    assert soft.shape == hard.shape == (2, 50, 40)
    assert torch.allclose(soft, torch.ones_like(soft), atol=NUM_LABELS / 512)  # each is within 1/512
    assert torch.equal(hard, torch.ones_like(hard))
    everything = parsing.mask("all", soft=True)
    assert everything.max() <= 1 and everything.min() > 1 - 1e-5


def test_a_hard_mask_is_where_its_labels_are():
    parsing = parsing_of(torch.randn(NUM_LABELS, 8, 8), (32, 32))
    mask = parsing.mask("eyes - left eye")
    assert mask.dtype == torch.float32
    assert torch.equal(mask, (parsing.labels == 5).float())


def test_no_half_pixel_shift():
    """A vertical border in the middle of the logits comes out in the middle of the picture, soft value 1/2."""
    logits = torch.full((NUM_LABELS, 8, 8), -20.0)
    logits[0, :, :4] = 5.0
    logits[13, :, 4:] = 5.0
    parsing = parsing_of(logits, (64, 64))
    hair, rest = parsing.mask("hair", soft=True)[0], parsing.mask("background", soft=True)[0]
    assert torch.allclose(hair, rest.flip(-1), atol=1e-5)
    assert torch.equal(parsing.mask("hair")[0, :, 32:], torch.ones(64, 32))
    assert torch.equal(parsing.mask("hair")[0, :, :32], torch.zeros(64, 32))


def test_images_of_different_sizes():
    parsing = parsing_of(torch.randn(NUM_LABELS, 8, 8), (32, 32), (16, 48))
    with pytest.raises(ValueError, match=r"different sizes.*parsing\[i\]"):
        parsing.labels  # noqa: B018
    assert [one.labels.shape for one in parsing] == [(1, 32, 32), (1, 16, 48)]
    assert parsing[-1].mask("skin").shape == (1, 16, 48)
    with pytest.raises(IndexError):
        parsing[2]


def test_areas_count_every_pixel():
    parsing = parsing_of(torch.randn(NUM_LABELS, 8, 8), (33, 31), (33, 31))
    areas = parsing.areas
    assert areas.shape == (2, NUM_LABELS)
    assert areas.sum(1).tolist() == [33 * 31] * 2
    assert areas[0, 13] == parsing.mask("hair")[0].sum()


def test_overlay_colours_labels_and_leaves_the_background():
    logits = torch.zeros(NUM_LABELS, 4, 4)
    logits[0, :, :2] = 9
    logits[13, :, 2:] = 9
    parsing = parsing_of(logits, (16, 16))
    image = torch.full((1, 16, 16, 3), 0.5)
    overlay = parsing.overlay(image, opacity=1.0)
    assert torch.equal(overlay[0, :, :8], image[0, :, :8])
    assert torch.allclose(overlay[0, 0, 15] * 255, torch.tensor(LABELS[13].colour).float())
    assert torch.equal(parsing.overlay(image, opacity=0.0), image)
    grey = (image * 255).to(torch.uint8).numpy()
    assert (parsing.overlay(grey) - parsing.overlay(image)).abs().max() < 1 / 255


@pytest.mark.parametrize("opacity", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_what_it_cannot_show(opacity):
    parsing = parsing_of(torch.zeros(NUM_LABELS, 4, 4), (16, 16))
    with pytest.raises(ValueError, match="opacity"):
        parsing.overlay(torch.zeros(1, 16, 16, 3), opacity=opacity)
    with pytest.raises(ValueError, match="images that were parsed"):
        parsing.overlay(torch.zeros(1, 16, 17, 3))


def test_a_face_needs_its_parts():
    face = {"skin": (16, 16, 32, 40), "nose": (28, 30, 8, 8), "l_eye": (38, 24, 5, 3), "u_lip": (26, 44, 10, 3)}
    found = find_faces(squares(**face))
    assert [(f.x, f.y, f.width, f.height) for f in found] == [(16, 16, 32, 40)]
    glasses = {**{k: v for k, v in face.items() if k != "l_eye"}, "eye_g": (20, 22, 24, 8)}
    assert len(find_faces(squares(**glasses))) == 1
    for part in ("nose", "l_eye", "u_lip"):
        assert find_faces(squares(**{k: v for k, v in face.items() if k != part})) == []
    assert find_faces(squares(hair=(0, 0, 30, 30))) == []


def frames_with_a_face_that_is_lost() -> Parsing:
    """Five frames of 64x64: a face that moves to the right from frame 1 to frame 3, and is seen in these alone."""
    logits, details = [], []
    for frame in range(5):
        left = 8 + 8 * frame
        seen = frame in (1, 3)
        labels = squares(skin=(left, 20, 16, 24), hair=(left, 12, 16, 8)) if seen else squares(hair=(40, 40, 8, 8))
        logits.append(torch.nn.functional.one_hot(labels.long(), NUM_LABELS).permute(2, 0, 1)[:, ::2, ::2] * 12.0)
        details.append(Details((Face(0, left, 20, 16, 24),) if seen else ()))
    return Parsing(logits, [whole((64, 64))] * 5, [(64, 64)] * 5, details=details)


def test_where_there_is_no_face_stays_what_is_there():
    parsing = frames_with_a_face_that_is_lost()
    assert NO_FACE[0] == "what is there"
    assert torch.equal(parsing.where_no_face("what is there").labels, parsing.labels)
    assert parsing.mask("hair")[0].sum() == 64
    assert [len(faces) for faces in parsing.faces] == [0, 1, 0, 1, 0]


def test_between_two_frames_the_face_is_half_way():
    parsing = frames_with_a_face_that_is_lost().where_no_face("between")
    assert [faces[0].x if faces else None for faces in parsing.faces] == [16, 16, 24, 32, 32]
    for frame, left in enumerate((16, 16, 24, 32, 32)):
        box = parsing[frame].boxes("skin")[0]
        assert box == pytest.approx((left, 20, 16, 24), abs=2)
        assert parsing[frame].boxes("hair")[0] == pytest.approx((left, 12, 16, 8), abs=2)


@pytest.mark.parametrize("rule, hair", [("empty mask", 0), ("whole image", 64 * 64), ("last frame's", 128)])
def test_other_rules_for_images_without_a_face(rule, hair):
    parsing = frames_with_a_face_that_is_lost().where_no_face(rule)
    first = 0 if rule == "last frame's" else hair  # nothing was before it
    assert parsing.mask("hair").sum((1, 2)).tolist() == pytest.approx([first, 128, hair, 128, hair])
