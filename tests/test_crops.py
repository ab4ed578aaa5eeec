"""Crops of faces and edited crops put back: what is kept to the bit, what is blended, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faceparse_core import images as pictures
from faceparse_core.faces import Face, FaceCrops, crop_faces, paste_faces
from faceparse_core.parser import FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture [1, H, W, 3] without fine detail, different everywhere."""
    small = noise(1, 3, height // 16, width // 16)
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


def faces(*boxes: tuple[int, int, int, int]) -> list[Face]:
    return [Face(i, *box) for i, box in enumerate(boxes)]


@dataclass
class Tilted:
    """A face whose finder says how it is turned."""

    index: int
    x: int
    y: int
    width: int
    height: int
    angle: float = 30.0


# ---------------------------------------------------------------------------------------------- there and back


@given(
    x=st.integers(-20, 110), y=st.integers(-20, 90), width=st.integers(1, 80), height=st.integers(1, 80),
    padding=st.sampled_from([0, 0.3, 2]), feather=st.sampled_from([0, 5, 300]), masked=st.booleans(),
)  # fmt: skip
def test_crops_that_were_not_edited_give_back_the_image(x, y, width, height, padding, feather, masked):
    """Without resampling, to the bit; wherever the face is, beyond the border too."""
    image = noise(1, 97, 121, 3)
    crops, masks, places = crop_faces(image, [faces((x, y, width, height), (5, 5, 40, 30))], size=0, padding=padding)
    assert crops.shape == (2, places.size, places.size, 3) and places.size % 8 == 0 and len(places) == 2
    mask = masks if masked else None
    assert torch.equal(paste_faces(image, crops, places, mask=mask, feather=feather), image)
    eight_bit = (image * 255).to(torch.uint8)
    crops, _, places = crop_faces(eight_bit, [faces((x, y, width, height))], size=0, padding=padding)
    assert torch.equal(paste_faces(eight_bit, crops, places, feather=feather), eight_bit)


def test_a_face_as_large_as_the_crops_is_not_resampled_either():
    image = noise(1, 200, 200, 3)
    crops, masks, places = crop_faces(image, [faces((60, 70, 50, 64))], size=128, padding=0.5)
    assert torch.equal(crops[0], image[0, 38:166, 21:149])
    assert masks.sum() == 50 * 64 and masks[0, 32:96, 39:89].all()
    assert torch.equal(paste_faces(image, crops, places), image)


@pytest.mark.parametrize("feather", [0, 10])
def test_only_the_crop_changes_and_its_edge_is_soft(feather):
    image = noise(1, 200, 300, 3)
    before = image.clone()
    crops, _, places = crop_faces(image, [faces((100, 60, 60, 60))], size=120, padding=0.5)  # 70..190, 30..150
    pasted = paste_faces(image, torch.ones_like(crops), places, feather=feather)
    assert torch.equal(image, before), "what was given is not changed"
    inside = torch.zeros(200, 300, dtype=torch.bool)
    inside[30:150, 70:190] = True
    assert torch.equal(pasted[0][~inside], image[0][~inside])
    assert (pasted[0, 30 + feather : 150 - feather, 70 + feather : 190 - feather] == 1).all()
    step = ((pasted - image) / (1 - image))[0, 90, 70 : 70 + max(1, feather), 0]
    assert (step.diff() > 0).all() and (feather == 0 or step[0] < 0.1)


def test_the_border_of_the_image_has_no_edge():
    image = noise(1, 100, 100, 3)
    crops, _, places = crop_faces(image, [faces((20, 10, 60, 70))], size=64)
    assert places.places[0].box == (0, 0, 100, 100), "the padding ends where the image does"
    assert (paste_faces(image, torch.ones_like(crops), places, feather=30) == 1).all()


def test_a_mask_says_what_is_put_back():
    image = noise(2, 120, 120, 3)
    crops, masks, places = crop_faces(image, [faces((40, 40, 40, 40))] * 2, size=80, padding=0.5)
    edited = torch.zeros_like(crops)
    for feather, reach in ((0, 0), (8, 4)):
        pasted = paste_faces(image, edited, places, mask=masks, feather=feather)
        outside = torch.ones(120, 120, dtype=torch.bool)
        outside[40 - reach : 80 + reach, 40 - reach : 80 + reach] = False
        assert torch.equal(pasted[:, outside], image[:, outside])
        assert (pasted[:, 40 + reach : 80 - reach, 40 + reach : 80 - reach] == 0).all()
    one = paste_faces(image, edited, places, mask=masks[:1], feather=0)
    assert torch.equal(one, paste_faces(image, edited, places, mask=masks, feather=0))
    larger = paste_faces(image, edited, places, mask=masks.repeat_interleave(2, 1).repeat_interleave(2, 2), feather=0)
    assert ((larger - one).abs().amax((0, 3)) > 1e-5).sum() <= 8 * 42, "but for the pixels along the edge"


def test_edited_crops_may_have_another_size():
    image = smooth(256, 256)
    crops, _, places = crop_faces(image, [faces((80, 80, 100, 90))], size=96)
    edited = pictures.resize(crops[0], (384, 384))[None]
    pasted = paste_faces(image, edited, places)
    assert (pasted - image).abs().max() < 0.05 and not torch.equal(pasted, image)


@pytest.mark.parametrize("size", [96, 300])
def test_turned_crops_stand_upright_and_go_back(size):
    """A bar that is tilted by 30 degrees is upright in the crop, and where it was when pasted."""
    image = smooth(240, 240)
    down, across = torch.meshgrid(*[torch.arange(240) + 0.5 - 120] * 2, indexing="ij")
    along = -across * 0.5 + down * 0.75**0.5  # turned clockwise by 30 degrees, the bar runs down and to the left
    aside = across * 0.75**0.5 + down * 0.5
    bar = (aside.abs() < 6) & (along.abs() < 50)
    image[0][bar] = 1.0
    crops, _, places = crop_faces(image, [[Tilted(0, 70, 70, 100, 100)]], size=size, padding=0.2, align=True)
    assert places.places[0].angle == 30
    middle = size / 140  # crop pixels in a pixel
    wide = round(3 * middle)
    assert (
        crops[
            0, size // 2 - round(35 * middle) : size // 2 + round(35 * middle), size // 2 - wide : size // 2 + wide
        ].min()
        > 0.95
    )
    pasted = paste_faces(image, crops, places, feather=8)
    assert (pasted - image).abs().mean() < 0.004
    corner = (aside.abs() > 71) | (along.abs() > 71)
    assert torch.equal(pasted[0][corner], image[0][corner])
    assert not torch.equal(paste_faces(image, 1 - crops, places)[0, 120, 120], image[0, 120, 120])


def test_strong_reductions_are_antialiased():
    """A board of single black and white pixels becomes even grey, straight or turned."""
    board = (torch.arange(400)[:, None] + torch.arange(400)) % 2
    image = board.float()[None, ..., None].expand(1, 400, 400, 3)
    for align in (False, True):
        crops, *_ = crop_faces(image, [[Tilted(0, 100, 100, 200, 200)]], size=40, padding=0.2, align=align)
        assert (crops - 0.5).abs().max() < 0.05
    enlarged = board[:160, :160].float()[None, ..., None].expand(1, 160, 160, 3)
    flat = torch.full((1, 400, 400, 3), 0.5)
    for align in (False, True):
        _, _, places = crop_faces(flat, [[Tilted(0, 180, 180, 20, 20)]], size=80, padding=0.5, align=align)
        assert (paste_faces(flat, enlarged, places) - 0.5).abs().max() < 0.05


def test_of_overlapping_crops_each_face_keeps_its_own():
    image = torch.full((1, 200, 300, 3), 0.5)
    found = faces((60, 70, 60, 60), (150, 70, 60, 60))
    crops, masks, places = crop_faces(image, [found], size=120, padding=0.5)
    edited = torch.zeros_like(crops)
    edited[1] = 1
    pasted = paste_faces(image, edited, places)[0, ..., 0]
    assert (pasted[70:130, 60:110] == 0).all() and (pasted[70:130, 160:210] == 1).all()
    assert (pasted[100, 110:160].diff() >= 0).all(), "and between them one goes over into the other"
    edited[1] = 0.5  # the second was not edited: it must not undo the first
    pasted = paste_faces(image, edited, places)[0, ..., 0]
    assert (pasted[70:130, 60:110] == 0).all()
    masked = paste_faces(image, edited.fill_(0), places, mask=masks, feather=0)[0, ..., 0]
    assert (masked[70:130, 60:120] == 0).all() and (masked[70:130, 150:210] == 0).all()
    assert (masked == 0).sum() == 2 * 60 * 60


def test_alpha_and_forms():
    image = noise(1, 90, 90, 4)
    crops, _, places = crop_faces(image, [faces((30, 30, 30, 30))], size=40)
    pasted = paste_faces(image, crops * 0, places, feather=0)
    assert pasted.shape == image.shape and torch.equal(pasted[..., 3], image[..., 3])
    assert (pasted[0, 40, 40, :3] == 0).all()
    array = (image[0, ..., :3] * 255).to(torch.uint8).numpy()
    (one,) = paste_faces([array], crops * 0, places, feather=0)
    assert one.dtype == torch.uint8 and one.shape == (90, 90, 3) and (one[40, 40] == 0).all()
    assert array[40, 40].any(), "what was given is not changed"


def test_images_of_different_sizes():
    images = [noise(90, 120, 3), noise(60, 50, 3)]
    crops, _, places = crop_faces(images, [faces((30, 30, 30, 30)), faces((5, 5, 40, 30))], size=0)
    assert [place.image for place in places.places] == [0, 1]
    for before, after in zip(images, paste_faces(images, crops, places), strict=True):
        assert torch.equal(before, after)


# ---------------------------------------------------------------------------------------------- which faces


def test_faces_are_chosen():
    image = noise(3, 100, 100, 3)
    found = [faces((5, 5, 20, 20), (50, 50, 30, 30), (70, 5, 20, 25)), [], faces((10, 10, 40, 40))]

    def chosen(face):
        return [(place.image, place.face) for place in crop_faces(image, found, size=16, face=face)[2].places]

    assert chosen("all") == [(0, 0), (0, 1), (0, 2), (2, 0)]
    assert chosen("largest") == [(0, 1), (2, 0)]
    assert chosen(0) == [(0, 0), (2, 0)] and chosen(2) == [(0, 2)] and chosen(7) == []
    for wrong in ("smallest", -1, True, 1.5):
        with pytest.raises(ValueError, match="'all', 'largest' or an index"):
            chosen(wrong)


def test_no_face_gives_no_crop_and_the_image_back():
    image = noise(2, 50, 50, 3)
    crops, masks, places = crop_faces(image, [[], []], size=32)
    assert crops.shape == (0, 32, 32, 3) and masks.shape == (0, 32, 32) and len(places) == 0
    for blank in (crops, torch.zeros(1, 32, 32, 3)):
        assert torch.equal(paste_faces(image, blank, places), image)
    assert crop_faces(image, [[], []], size=0)[0].shape == (0, 0, 0, 3)


def test_crops_of_a_parsed_portrait(portrait):
    image = pictures.load(portrait)[0]
    image = image[4:228, 112:336]
    parsing = FaceParser("lite", "cpu", "fp32").parse([image, image.flip(1)])
    crops, masks, places = crop_faces([image, image.flip(1)], parsing, size=128, padding=0.25, align=True)
    assert [abs(place.angle) < 6 for place in places.places] == [True, True]
    assert places.places[0].angle == pytest.approx(-places.places[1].angle, abs=1.5), "mirrored, it tilts the other way"
    share = masks.mean((1, 2))
    assert ((share > 0.15) & (share < 0.6)).all() and masks[:, 64, 64].min() > 0.999
    scale = torch.tensor([place.side / 128 for place in places.places])
    whole = parsing.mask("face").sum((1, 2))
    assert torch.allclose(masks.sum((1, 2)) * scale**2, whole, rtol=0.05), "all of the face is in its crop"
    _, hair, _ = crop_faces([image, image.flip(1)], parsing, size=128, region="hair", face="largest")
    assert hair[:, 64, 64].max() == 0 and hair.mean() > 0.05
    images = [image, image[:, 8:]]
    different = FaceParser("lite", "cpu", "fp32").parse(images)
    assert [place.image for place in crop_faces(images, different, align=True)[2].places] == [0, 1]
    _, chin, _ = crop_faces([image, image.flip(1)], parsing, size=128, region="chin")
    assert 0.002 < chin.mean() < 0.05 and chin[:, :64].max() == 0


# ---------------------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_explained():
    image = noise(1, 60, 60, 3)
    found = [faces((10, 10, 20, 20), (30, 30, 20, 20))]
    for options, says in (
        (dict(size=-8), "size must be"),
        (dict(size=3), "size must be"),
        (dict(padding=-1), "padding must be"),
        (dict(padding=float("nan")), "padding must be"),
    ):
        with pytest.raises(ValueError, match=says):
            crop_faces(image, found, **options)
    with pytest.raises(ValueError, match="there are 1 images, but the faces are those of 2"):
        crop_faces(image, found * 2)
    with pytest.raises(ValueError, match="no 'hiar'"):
        crop_faces(image[:, :32, :32], nothing_parsed(32), region="hiar")

    crops, masks, places = crop_faces(image, found, size=16)
    for arguments, says in (
        ((noise(1, 61, 60, 3), crops, places), r"1 image of 60x60, but these are 1 image of 60x61"),
        ((noise(2, 60, 60, 3), crops, places), "2 images"),
        ((image, crops[:1], places), "2 faces were cropped, but there are 1 crops"),
        ((image, crops[:, :8], places), "crop 0 is 16x8"),
        ((image, crops * float("nan"), places), "NaN"),
    ):
        with pytest.raises(ValueError, match=says):
            paste_faces(*arguments)
    with pytest.raises(ValueError, match="3 of 16x16.*each of the 2"):
        paste_faces(image, crops, places, mask=torch.ones(3, 16, 16))
    with pytest.raises(ValueError, match="feather must be"):
        paste_faces(image, crops, places, feather=-1)
    with pytest.raises(ValueError, match="other sizes"):
        crop_faces(image, nothing_parsed(32))
    assert FaceCrops((), 512, ()).size == 512


def nothing_parsed(size: int) -> Parsing:
    logits = torch.zeros(19, 4, 4)
    logits[0] = 9
    return Parsing([logits], [Window(0, 0, size, size)], [(size, size)])
