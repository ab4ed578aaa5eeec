"""The nodes Make-up and Smooth Skin, over the stand-in for ComfyUI: they do what the engine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from faceparse_core import edits
from faceparse_core.edits.look import Irises


def test_a_look_is_put_on_and_nothing_else_changes(run, image, parsing):
    output = run("MakeUp", image=image, parsing=parsing, look="evening", strength=0.8)
    (made_up,) = output.args
    expected = edits.make_up(image, parsing.labels, parsing.faces, "evening", strength=0.8)
    assert torch.equal(made_up, expected) and not torch.equal(made_up, image)
    hair = parsing.mask("hair").bool()
    assert torch.equal(made_up[hair], image[hair])
    assert run.progress[-1] == (1, 1) and len(output.ui.results) == 1 and run.texts == []


def test_own_colours_take_the_place_of_the_looks(run, image, parsing):
    wanted = edits.look("classic")
    own = replace(
        wanted,
        lipstick=replace(wanted.lipstick, colour="navy"),
        lip_liner=replace(wanted.lip_liner, colour="navy"),
        eyeshadow=replace(wanted.eyeshadow, colour="#204060", crease=None),
        blush=replace(wanted.blush, colour="#a05050"),
    )
    colours = dict(lips="navy", eyeshadow="#204060", blush="#a05050")
    (made_up,) = run("MakeUp", image=image, parsing=parsing, look="classic", own_colours=True, **colours).args
    assert torch.equal(made_up, edits.make_up(image, parsing.labels, parsing.faces, own))
    # The look's own, as long as they are not asked for.
    (made_up,) = run("MakeUp", image=image, parsing=parsing, look="classic", **colours).args
    assert torch.equal(made_up, edits.make_up(image, parsing.labels, parsing.faces, wanted))
    with pytest.raises(ValueError, match="'reddish' is no colour"):
        run("MakeUp", image=image, parsing=parsing, own_colours=True, lips="reddish")


def test_lenses_colour_the_irises(run, image, parsing):
    (made_up,) = run("MakeUp", image=image, parsing=parsing, lenses=True, irises="#2f8fe8").args
    wanted = replace(edits.look("natural"), irises=Irises(colour="#2f8fe8"))
    assert torch.equal(made_up, edits.make_up(image, parsing.labels, parsing.faces, wanted))


def test_skin_is_smoothed_as_the_engine_does_it(run, image, parsing):
    given = dict(smooth=0.8, spots=0.1, shine=0.6, under_eyes=0.9, pores=0.5)
    (smoothed,) = run("SmoothSkin", image=image, parsing=parsing, **given).args
    assert torch.equal(smoothed, edits.smooth_skin(image, parsing.labels, parsing.faces, **given))
    kept = parsing.mask("eyes + brows + lips + hair + background").bool()
    assert torch.equal(smoothed[kept], image[kept]) and not torch.equal(smoothed, image)
    nothing = dict.fromkeys(("smooth", "spots", "shine", "under_eyes"), 0.0)
    assert torch.equal(run("SmoothSkin", image=image, parsing=parsing, **nothing).args[0], image)
    assert run.progress[-1] == (1, 1)


def test_choices_are_those_of_the_engine(pack):
    inputs = {i.id: i for i in pack.nodes["FaceParseMakeUp"].define_schema().inputs}
    assert inputs["look"].options == list(edits.LOOKS) and inputs["look"].default in edits.LOOKS
    advanced = [i.id for i in pack.nodes["FaceParseSmoothSkin"].define_schema().inputs if i.advanced]
    assert advanced == ["pores"]


@pytest.mark.parametrize("name", ["MakeUp", "SmoothSkin"])
def test_one_of_several_batches_and_nobody(run, image, grey, name):
    wall = torch.cat([image, image.flip(2)], 2)
    parsing = run("ParseFace", image=wall).args[0]
    (changed,) = run(name, image=wall, parsing=parsing, face="0").args
    halves = [(half != 0).any().item() for half in (changed - wall).split(224, 2)]
    assert sorted(halves) == [False, True]
    run(name, image=wall, parsing=parsing, face="5")
    assert run.texts[-1] == ("7", "no face 5: there are 2 faces, numbered 0 to 1")

    frames = torch.cat([grey, image])
    parsing = run("ParseFace", image=frames).args[0]
    (changed,) = run(name, image=frames, parsing=parsing).args
    assert torch.equal(changed[0], frames[0]) and not torch.equal(changed[1], frames[1])
    assert run.texts[-1] == ("7", "no face in 1 of 2 images: nothing is changed there")
    with pytest.raises(ValueError, match="connect the image"):
        run(name, image=image, parsing=run("ParseFace", image=wall).args[0])


@pytest.mark.parametrize("name", ["MakeUp", "SmoothSkin"])
def test_half_precision_and_interruption(run, image, parsing, name, monkeypatch):
    import comfy.model_management as memory

    one = run(name, image=image, parsing=parsing).args[0]
    monkeypatch.setattr(memory, "intermediate_dtype", lambda: torch.float16)
    half = run(name, image=image.half(), parsing=parsing).args[0]
    assert half.dtype == torch.float16 and (half.float() - one).abs().mean() < 0.002
    memory.interrupt_current_processing()
    with pytest.raises(memory.InterruptProcessingException):
        run(name, image=image, parsing=parsing)
