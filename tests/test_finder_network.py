import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from faceparse_core.faces.face import Face
from faceparse_core.faces.finder import Finder, Found, decoded, tilt
from faceparse_core.models import finder as finder_network
from faceparse_core.models.finder import MARKS, STRIDE, FinderNetwork
from faceparse_core.training.scenes import targets_of


def drawn(boxes, marks=None, size=256):
    """The map that a perfect network would give of faces, boxes as centre x, y, width, height."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    if marks is None:
        marks = np.repeat(boxes[:, None, :2], MARKS, 1)
    targets = targets_of(boxes, np.array(marks, np.float32), np.ones(len(boxes), bool), size)
    near = torch.from_numpy(targets[0]).clamp(1e-3, 1 - 1e-3)
    return torch.cat([near.logit()[None], torch.from_numpy(targets[3:])])


@pytest.mark.parametrize("height, width", [(32, 32), (64, 160), (320, 224)])
def test_a_cell_for_eight_pixels(height, width):
    output = FinderNetwork().eval()(torch.rand(2, 3, height, width))
    assert output.shape == (2, 1 + 4 + 2 * MARKS, height // STRIDE, width // STRIDE)


def test_it_is_small():
    parameters = sum(p.numel() for p in FinderNetwork().parameters())
    assert 2 * parameters < 1.5e6


def test_folded_and_packed_it_says_the_same():
    torch.manual_seed(1)
    network = FinderNetwork()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 3, 64, 64))
    network.eval()
    pixels = torch.rand(1, 3, 96, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network(pixels)
        network.fold().to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(network.pack()(pixels), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype, tolerance", [(None, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("height, width", [(352, 64), (96, 160), (160, 32)])
def test_a_large_picture_is_seen_in_bands_as_it_is_whole(monkeypatch, height, width, dtype, tolerance):
    torch.manual_seed(2)
    network = FinderNetwork().eval().fold().to(memory_format=torch.channels_last)
    if dtype is not None:
        network.narrow(dtype)
    pixels = torch.rand(2, 3, height, width).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = network(pixels)
        for rows in (1, 8, 40):  # at least what one cell needs, however wide the picture
            monkeypatch.setattr(finder_network, "_BAND", rows * width)
            torch.testing.assert_close(network(pixels), whole, atol=tolerance, rtol=10 * tolerance)


def test_what_is_drawn_is_read():
    boxes = [[60, 70, 30, 40], [180, 160, 100, 130], [200, 20, 16, 20]]
    marks = [[[x + a * w, y + b * h] for a, b in ((-0.2, -0.1), (0.2, -0.1), (0, 0.1), (-0.15, 0.3), (0.15, 0.3))]
             for x, y, w, h in boxes]  # fmt: skip
    found = decoded(drawn(boxes, marks), 0.5)
    assert len(found.scores) == 3
    order = [torch.cdist(found.marks[:, 2], torch.tensor([mark[2]]))[:, 0].argmin().item() for mark in marks]
    for face, (x, y, width, height), mark in zip(order, boxes, marks, strict=True):
        expected = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        torch.testing.assert_close(found.boxes[face], expected, atol=0.01, rtol=0)
        torch.testing.assert_close(found.marks[face], torch.tensor(mark), atol=0.01, rtol=0)


def test_the_same_face_comes_once():
    twice = torch.maximum(drawn([[100, 100, 60, 80]]), drawn([[116, 100, 60, 80]]).nan_to_num(-9))
    assert len(decoded(twice, 0.5).scores) == 1
    apart = [[60, 100, 60, 80], [130, 100, 60, 80]]
    assert len(decoded(drawn(apart), 0.5).scores) == 2


def test_what_may_be_a_face_counts_neither_way():
    box, marks = np.array([[100, 100, 60, 80]], np.float32), np.full((1, MARKS, 2), np.nan, np.float32)
    known, doubtful = (targets_of(box, marks, np.array([sure]), 256) for sure in (True, False))
    assert known[0].max() == 1 and known[1].min() == 1 and known[2].sum() == pytest.approx(1)
    assert doubtful[0].max() == 0 and doubtful[2].max() == 0
    assert (doubtful[1] == 0).sum() == pytest.approx(60 * 80 / STRIDE**2, rel=0.4)


class Oracle(torch.nn.Module):
    """Says that there is a face where a picture is bright, as large as that is."""

    def forward(self, pixels):
        maps = []
        for picture in pixels:
            bright = (picture.mean(0) > 1.5).nonzero().float()
            boxes = []
            if len(bright):
                (top, left), (bottom, right) = bright.min(0).values, bright.max(0).values + 1
                boxes = [[(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]]
            side = max(picture.shape[1:])
            whole = drawn(boxes, size=math.ceil(side / STRIDE) * STRIDE)
            maps.append(whole[:, : picture.shape[1] // STRIDE, : picture.shape[2] // STRIDE])
        return torch.stack(maps)


def test_boxes_are_in_the_pictures_pixels():
    finder = Finder(Oracle(), torch.device("cpu"))
    pictures = []
    for height, width, dtype in ((900, 1600, torch.uint8), (300, 200, torch.float32), (900, 1600, torch.float32)):
        picture = torch.zeros(height, width, 3)
        picture[100:180, 40:100] = 1
        pictures.append((picture * 255).to(dtype) if dtype == torch.uint8 else picture)
    for found in finder.find([*pictures, torch.zeros(64, 64, 3)])[:3]:
        (face,) = found
        assert (face.x, face.y, face.width, face.height) == pytest.approx((40, 100, 60, 80), abs=4)
    assert finder.find([torch.zeros(64, 64, 3)]) == [[]]


@pytest.mark.parametrize("angle", [0, 30, 90, 180, -120])
def test_the_tilt_is_that_of_the_landmarks(angle):
    upright = torch.tensor([[-2.0, -2], [2, -2], [0, 0], [-1.5, 2], [1.5, 2]])
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    turned = upright @ torch.tensor([[cosine, sine], [-sine, cosine]])
    assert (tilt(turned.tolist()) - angle + 180) % 360 - 180 == pytest.approx(0, abs=0.01)


def test_a_face_is_looked_for_where_it_was():
    finder = Finder(Oracle(), torch.device("cpu"))
    picture = torch.zeros(900, 1600, 3)
    picture[400:480, 740:800] = 1
    near, far = Face(7, 730, 410, 60, 80), Face(3, 100, 100, 60, 80)
    seen, missed = finder.find_near(picture, [near, far])
    assert missed is None
    assert seen.index == 7
    assert (seen.x, seen.y, seen.width, seen.height) == pytest.approx((740, 400, 60, 80), abs=4)
    assert finder.find_near(picture, []) == []


@pytest.mark.parametrize("score, then", [(0.9, 0.5), (0.6, 0.5), (0.3, 0.3)])
def test_a_doubtful_face_is_no_surer_than_a_look_at_it_alone(monkeypatch, score, then):
    finder = Finder(nn.Identity(), torch.device("cpu"))
    marks = [(30.0, 40.0), (70.0, 40.0), (50.0, 55.0), (35.0, 75.0), (65.0, 75.0)]
    boxes = torch.tensor([[0.0, 0, 100, 100], [200, 0, 300, 100], [400, 0, 500, 100], [600, 0, 700, 100]])
    shifts = boxes[:, None, :2]
    found = Found(boxes, torch.tensor(marks) + shifts, torch.tensor([0.8, 0.4, 0.4, 0.4]))
    monkeypatch.setattr(finder, "_found", lambda images: [found])
    asked = []

    def near(images, faces):  # the second is seen again, the third is seen upside down, the fourth is not
        asked.extend(face.x for face in faces)
        return [{200: face, 400: replace(face, angle=180.0), 600: None}[face.x] for face in faces]

    monkeypatch.setattr(finder, "_near", lambda i, f, *_: [one and replace(one, score=score) for one in near(i, f)])
    (faces,) = finder.find([torch.zeros(100, 800, 3)])
    assert [face.x for face in faces] == [0, 200] and asked == [200, 400, 600]
    assert [face.score for face in faces] == pytest.approx([0.8, then])


def test_a_tilted_face_is_looked_at_turned_upright_until_it_stands(monkeypatch):
    """Once with all that is doubtful, and once more where that look found another tilt."""
    finder = Finder(nn.Identity(), torch.device("cpu"))
    upright = torch.tensor([[-20.0, -15], [20, -15], [0, 0], [-15, 20], [15, 20]])
    marks = []
    for number, angle in enumerate((0, 40, -25)):
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        turned = upright @ torch.tensor([[cosine, sine], [-sine, cosine]])
        marks.append(turned + torch.tensor([200.0 * number + 50, 50]))
    boxes = torch.tensor([[0.0, 0, 100, 100], [200, 0, 300, 100], [400, 0, 500, 100]])
    found = Found(boxes, torch.stack(marks), torch.tensor([0.9, 0.9, 0.4]))
    monkeypatch.setattr(finder, "_found", lambda images: [found])
    looks = []

    def near(images, faces, *least):
        looks.append([(face.x, round(face.angle)) for face in faces])
        # The second stands at 60 degrees, and seems to lack a third more than it does; the third is as it seemed.
        true = {200: 60.0, 400: -25.0}
        return [replace(face, angle=face.angle + (true[face.x] - face.angle) / 0.75, score=0.7) for face in faces]

    monkeypatch.setattr(finder, "_near", near)
    (faces,) = finder.find([torch.zeros(100, 800, 3)])
    assert {face.x: face.angle for face in faces} == pytest.approx({0: 0.0, 200: 60.0, 400: -25.0}, abs=0.1)
    assert [look for look in looks if look] == [[(200, 40), (400, -25)], [(200, 60)]]
