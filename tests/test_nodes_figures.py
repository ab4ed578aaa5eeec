"""The nodes Try On and Face Figures, over the stand-in for ComfyUI: they do what the engine does."""

from __future__ import annotations

import json

import pytest
import torch

from faceparse_core import edits


def test_glasses_are_laid_on_and_nothing_else_changes(run, image, parsing):
    output = run("TryOn", image=image, parsing=parsing, piece="sun glasses", size=1.1, up=0.1, shadow=0.0)
    worn, cover = output.args
    what = edits.piece("sun glasses")
    front = edits.several.refined(image, parsing, what.behind)  # as the command has it
    options = dict(front=front, size=1.1, up=0.1, shadow=0.0)
    expected, covered = edits.try_on(image, what, parsing.labels, parsing.faces, **options)
    assert torch.equal(worn, expected) and torch.equal(cover, covered) and cover.max() > 0.9
    assert torch.equal(worn[cover == 0], image[cover == 0])
    assert run.progress[-1] == (1, 1) and len(output.ui.results) == 1


def test_a_picture_of_your_own_with_the_mask_of_load_image(run, image, parsing):
    red, transparent = torch.zeros(1, 40, 100, 3), torch.zeros(1, 40, 100)
    red[..., 0] = 1
    transparent[:, :4] = 1
    worn, cover = run("TryOn", image=image, parsing=parsing, picture=red, picture_mask=transparent, shadow=0.0).args
    assert (worn[cover > 0.99] - torch.tensor([1.0, 0, 0])).abs().max() < 0.02 and (cover > 0.99).sum() > 100
    rgba = torch.cat([red, 1 - transparent[..., None]], -1)
    assert torch.equal(run("TryOn", image=image, parsing=parsing, picture=rgba, shadow=0.0).args[0], worn)
    with pytest.raises(ValueError, match="connect picture_mask"):
        run("TryOn", image=image, parsing=parsing, picture=red)
    with pytest.raises(ValueError, match="picture_mask is of 64x64"):
        run("TryOn", image=image, parsing=parsing, picture=red, picture_mask=torch.ones(1, 64, 64))


def test_nobody_to_wear_it_is_told(run, image, parsing):
    with pytest.raises(ValueError, match="there is no face that the hat could be laid on"):
        run("TryOn", image=image, parsing=parsing, piece="hat", face="7")


def test_figures_as_json_table_and_plot(run, image, parsing):
    batch = image.expand(3, -1, -1, -1)
    text, table, plot, count = run("FaceFigures", image=batch, parsing=parsing, white_balance=True).args
    told = json.loads(text)
    expected = edits.face_figures(batch, parsing.repeated(3).labels, parsing.faces * 3, white_balance=True)
    assert told["images"] == json.loads(json.dumps(expected)) and "no medical measure" in told["note"]
    assert len(table.splitlines()) == 4 and table.startswith("image,index,box x")
    assert plot.shape == (1, 830, 1000, 3) and plot.dtype == torch.float32 and count == 0


def test_choices_are_those_of_the_engine(pack):
    inputs = {i.id: i for i in pack.nodes["FaceParseTryOn"].define_schema().inputs}
    assert inputs["piece"].options == list(edits.piece_names())
