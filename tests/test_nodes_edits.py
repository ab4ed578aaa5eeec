"""The nodes that change pictures, over the stand-in for ComfyUI: they do what the engine does, where it is wanted."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from faceparse_core import edits, masks
from faceparse_core.edits import several
from faceparse_core.faces import Face


def inputs_of(pack, name: str) -> dict:
    return {socket.id: socket for socket in pack.nodes["FaceParse" + name].define_schema().inputs}


@pytest.fixture(scope="module")
def wall(image):
    """A picture of three: two heads, far from each other, and a wall; float32 [1, 224, 448, 3]."""
    return torch.cat([image, image.flip(2)], 2)


# ---------------------------------------------------------------------------------------------- Recolour


def test_recolour_gives_a_region_another_colour_and_leaves_the_rest(run, image, parsing):
    output = run("Recolour", image=image, parsing=parsing, colour="#1f3f8a")
    coloured, mask = output.args
    assert torch.equal(mask, several.refined(image, parsing, "hair")) and 0.1 < mask.mean() < 0.4
    assert torch.equal(coloured, edits.recolour(image, mask, "#1f3f8a"))
    assert torch.equal(coloured[mask == 0], image[mask == 0])
    hair = coloured[mask > 0.99].mean(0)
    assert hair[2] > hair[0] + 0.1
    assert run.progress[-1] == (2, 2) and len(output.ui.results) == 1 and not run.texts


def test_recolour_passes_every_input_on(run, image, parsing):
    lips = several.refined(image, parsing, "lips")
    given = dict(colour="plum", strength=0.6, light=0.3)
    (coloured, mask) = run("Recolour", image=image, parsing=parsing, region="lips", **given).args
    assert torch.equal(mask, lips) and torch.equal(coloured, edits.recolour(image, lips, **given))
    two = run("Recolour", image=image, mask=lips, two_tone=True, tips="#ffffff").args[0]
    assert torch.equal(two, edits.recolour(image, lips, "#7a1f2b", tips="#ffffff"))


def test_a_mask_takes_the_place_of_a_region_and_needs_no_parsing(run, image, parsing):
    own = torch.zeros(1, 224, 224)
    own[:, :50] = 1
    for more in ({}, {"parsing": parsing}):
        coloured, mask = run("Recolour", image=image, mask=own, **more).args
        assert torch.equal(mask, own) and torch.equal(coloured[:, 50:], image[:, 50:])
        assert not torch.equal(coloured[:, :50], image[:, :50])
    for name in ("Recolour", "Background"):
        with pytest.raises(ValueError, match="connect the parsing of Parse Face, or a mask"):
            run(name, image=image)
        with pytest.raises(ValueError, match="do not go together"):
            run(name, image=image, mask=own[:, 1:])
        with pytest.raises(ValueError, match="connect the image"):
            run(name, image=image[:, 1:], parsing=parsing)


def test_one_person_of_several_gets_the_colour(run, wall):
    parsing = run("ParseFace", image=wall).args[0]
    assert len(parsing.faces[0]) == 2
    one = parsing.faces[0][0]
    coloured, mask = run("Recolour", image=wall, parsing=parsing, region="skin", face="0").args
    theirs, others = (slice(0, 200), slice(248, 448)) if one.x < 224 else (slice(248, 448), slice(0, 200))
    assert mask[:, :, theirs].mean() > 0.1 and mask[:, :, others].mean() < 0.01
    assert (coloured - wall).abs()[:, :, theirs].mean() > 0.02


def test_nothing_to_colour_is_told(run, image, parsing, caplog):
    with caplog.at_level(logging.WARNING, "faceparse"):
        coloured, _ = run("Recolour", image=image, parsing=parsing, region="eyeglasses").args
    assert torch.equal(coloured, image)
    assert not several.refined(image, parsing, "eyeglasses").any() and parsing.mask("eyeglasses", soft=True).any()
    assert run.texts == [("7", "nothing of eyeglasses found: the image is as it was")]
    assert "Recolour: nothing of eyeglasses" in caplog.text


def test_a_wrong_colour_is_told(run, image, parsing):
    for name in ("Recolour", "Background"):
        with pytest.raises(ValueError, match="'reddish' is no colour"):
            run(
                name,
                image=image,
                parsing=parsing,
                colour="reddish",
                **({"way": "colour"} if name != "Recolour" else {}),
            )


def test_a_wrong_region_is_refused_when_the_graph_is_queued(pack):
    for name, given in (("Recolour", "region"), ("Background", "keep")):
        valid = pack.nodes["FaceParse" + name].validate_inputs
        assert valid(**{given: "hair + hat"}) is True and valid(**{given: None}) is True
        assert "did you mean 'hair'" in valid(**{given: "hiar"})


# ---------------------------------------------------------------------------------------------- Background


def test_backgrounds_of_every_kind(run, image, parsing):
    person = several.refined(image, parsing, "person")
    other = torch.rand(1, 90, 120, 3, generator=torch.Generator().manual_seed(1))
    for inputs, same_as in (
        (dict(way="blur", radius=3.0, falloff=0.2), edits.blur_background(image, person, radius=3.0, falloff=0.2)),
        (dict(way="colour", colour="#204060"), edits.replace_background(image, person, "#204060")),
        (dict(way="picture", picture=other), edits.replace_background(image, person, other)),
        (dict(way="transparent"), masks.cut_out(image, person)),
    ):
        output = run("Background", image=image, parsing=parsing, **inputs)
        assert torch.equal(output.args[0], same_as), inputs["way"]
        assert torch.equal(output.args[1], person) and len(output.ui.results) == 1
        assert torch.equal(output.args[0][..., :3][person == 1], image[person == 1])
    with pytest.raises(ValueError, match="connect one to picture"):
        run("Background", image=image, parsing=parsing, way="picture")


def test_what_stays_can_be_said_or_drawn(run, image, parsing, grey):
    changed, mask = run("Background", image=image, parsing=parsing, way="colour", colour="lime", keep="head").args
    assert 0.2 < mask.mean() < 0.6
    assert torch.equal(mask, several.refined(image, parsing, "head"))
    assert torch.equal(changed[0, -1, 0], torch.tensor([0.0, 1.0, 0.0]))
    own = torch.zeros(1, 224, 224)
    own[:, 100:] = 1
    changed, _ = run("Background", image=image, mask=own, way="colour", colour="lime").args
    assert torch.equal(changed[:, 100:], image[:, 100:])
    nothing = run("ParseFace", image=grey).args[0]
    run("Background", image=grey, parsing=nothing)
    assert run.texts[-1] == ("7", "nothing of person found: all of the image is background")


def test_one_person_of_several_stays(run, wall):
    parsing = run("ParseFace", image=wall).args[0]
    means = []
    for face in ("0", "1", "all"):
        changed, mask = run("Background", image=wall, parsing=parsing, way="colour", keep="head", face=face).args
        means.append([half.mean().item() for half in mask[0].split(224, 1)])
    (first, second, both) = means
    assert min(first) < 0.01 < 0.2 < max(first) and min(second) < 0.01 < 0.2 < max(second) and min(both) > 0.2


def test_bits_of_the_background_are_no_person():
    """Of a mask as a network may see it: a head, and a speck that is far from it and surely a person, too."""
    soft = torch.zeros(1, 120, 160)
    soft[:, 20:90, 20:80], soft[:, 100:112, 130:145] = 0.95, 0.9
    seen = SimpleNamespace(faces=[[Face(0, 35, 35, 30, 40)]], mask=lambda *_, **__: soft)
    picture = torch.full((1, 120, 160, 3), 0.2)
    picture[:, 20:90, 20:80] = 0.8
    mask = several.refined(picture, seen, "person")
    assert mask[0, 50, 50] > 0.9 and not mask[:, 95:, 100:].any()
    assert several.refined(picture, seen, "lips")[:, 95:, 100:].any(), "these may be small"
    seen.faces = [[]]  # who is so small cannot be told without a face
    assert several.refined(picture, seen, "person")[:, 95:, 100:].any()


# ---------------------------------------------------------------------------------------------- Face Privacy


@pytest.mark.parametrize("way", edits.WAYS)
def test_a_face_is_hidden_and_nothing_else(run, image, parsing, way):
    hidden, mask = run("FacePrivacy", image=image, parsing=parsing, way=way, colour="navy").args
    area = edits.hidden_area(parsing.labels, parsing.faces)
    assert torch.equal(mask, area)
    expected = edits.hide(image, area, parsing.faces, way=way, colour="navy", labels=parsing.labels)
    assert torch.equal(hidden, expected) and torch.equal(hidden[mask == 0], image[mask == 0])
    assert run.progress[-1] == (1, 1)


def test_face_privacy_passes_every_input_on(run, wall):
    parsing = run("ParseFace", image=wall).args[0]
    for inputs in (dict(area="eyes"), dict(face="largest"), dict(face="1"), dict(face="0", others=True)):
        _, mask = run("FacePrivacy", image=wall, parsing=parsing, **inputs).args
        if "face" in inputs:
            inputs["face"] = int(inputs["face"]) if inputs["face"].isdigit() else inputs["face"]
        assert torch.equal(mask, edits.hidden_area(parsing.labels, parsing.faces, **inputs)), inputs
        assert mask.any() and not mask.all()
    few, mask = run("FacePrivacy", image=wall, parsing=parsing, cells=2).args
    assert torch.equal(few, edits.hide(wall, mask, parsing.faces, cells=2))
    with pytest.raises(ValueError, match="say whose face is to be seen"):
        run("FacePrivacy", image=wall, parsing=parsing, others=True)


def test_a_picture_in_which_no_face_was_found_is_hidden_whole_unless_told_otherwise(run, image, grey):
    grain = torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(2)) * 0.1 + 0.4
    frames = torch.cat([image, grain])
    parsing = run("ParseFace", image=frames).args[0]
    hidden, mask = run("FacePrivacy", image=frames, parsing=parsing).args
    assert mask[1].all() and not mask[0].all()
    assert len(hidden[1].reshape(-1, 3).unique(dim=0)) <= 10 * 10
    assert run.texts[-1] == ("7", "no face in 1 of 2 images: all of it is hidden")
    left, mask = run("FacePrivacy", image=frames, parsing=parsing, on_no_face="leave it").args
    assert torch.equal(left[1], grain[0]) and not mask[1].any()
    assert run.texts[-1][1].endswith("it is as it was")
    with pytest.raises(ValueError, match="no face in 1 of 2 images"):
        run("FacePrivacy", image=frames, parsing=parsing, on_no_face="error")
    # Also where the masks of such images are whole, or somebody is to be seen that is not there.
    parsing = run("ParseFace", image=grain, on_no_face="whole image").args[0]
    assert run("FacePrivacy", image=grain, parsing=parsing, face="0", others=True).args[1].all()


def test_somebody_who_is_not_there_is_told(run, image, parsing):
    run("FacePrivacy", image=image, parsing=parsing, face="3")
    assert run.texts[-1][1].startswith("no face 3")
    _, mask = run("FacePrivacy", image=image, parsing=parsing, face="3", others=True).args
    assert mask.any() and len(run.texts) == 2 and run.texts[-1][1] == "", "everybody is hidden, as was asked for"


# ---------------------------------------------------------------------------------------------- all of them


def test_choices_are_those_of_the_engine(pack):
    privacy = inputs_of(pack, "FacePrivacy")
    assert privacy["way"].options == list(edits.WAYS) and privacy["area"].options == list(edits.AREAS)
    assert (privacy["cells"].min, privacy["cells"].max) == (1, 8)
    assert privacy["on_no_face"].default == privacy["on_no_face"].options[0] == "hide everything"
    advanced = {name: [key for key, one in inputs_of(pack, name).items() if one.advanced] for name in NAMES}
    assert advanced == {"Recolour": ["light"], "Background": ["falloff"], "FacePrivacy": []}


NAMES = ("Recolour", "Background", "FacePrivacy")


@pytest.mark.parametrize("name", NAMES)
def test_batches_alpha_and_half_precision(run, image, parsing, name, monkeypatch):
    import comfy.model_management as memory

    given = {"parsing": parsing} | ({"region": "lips"} if name == "Recolour" else {})  # hair takes longer
    one = run(name, image=image, **given).args[0]
    # A single parsing counts for all images, and a single image, without its B, for itself.
    frames = torch.cat([image, image * 0.5])
    many = run(name, image=frames, **given).args
    assert torch.equal(many[0][:1], one) and len(many[0]) == len(many[1]) == 2
    assert torch.equal(run(name, image=image[0], **given).args[0], one)
    with_alpha = torch.cat([image, torch.rand(1, 224, 224, 1)], 3)
    assert torch.equal(run(name, image=with_alpha, **given).args[0], one)
    monkeypatch.setattr(memory, "intermediate_dtype", lambda: torch.float16)
    halves = run(name, image=image.half(), **given).args
    assert halves[0].dtype == halves[1].dtype == torch.float16
    assert (halves[0].float() - one).abs().mean() < 0.002


@pytest.mark.parametrize("name", NAMES)
def test_a_long_batch_stops_at_the_hosts_interrupt(run, image, parsing, name):
    import comfy.model_management as memory

    memory.interrupt_current_processing()
    with pytest.raises(memory.InterruptProcessingException):
        run(name, image=image, parsing=parsing)


def test_masks_of_other_nodes_fit(run, image, parsing):
    """Also those that are made when somebody first looks at them."""
    face = run("ParseFace", image=image).args[1]
    _, mask = run("Recolour", image=image, mask=face).args
    assert torch.equal(mask * 1, parsing.mask("face"))
    assert isinstance(parsing.faces[0][0], Face)
