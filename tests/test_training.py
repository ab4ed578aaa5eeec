"""Training and measuring, on drawn faces that are learnt in seconds."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from faceparse_core import FaceParser, checkpoints
from faceparse_core.cli import main
from faceparse_core.labels import NUM_LABELS
from faceparse_core.models.hair import HairOutline, start_from
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.segformer import SIZES, SegFormer
from faceparse_core.training import calibrate, hair, running
from faceparse_core.training import train as training
from faceparse_core.training.data import (
    NOT_HAIR,
    UNTOLD,
    Batches,
    Labelled,
    Source,
    drawing_weights,
    read_backgrounds,
    read_names,
    read_pair,
)  # fmt: skip
from faceparse_core.training.depthwise import quicken_depthwise
from faceparse_core.training.evaluate import confusion_picture, evaluate, figures, table
from faceparse_core.training.losses import Criterion
from faceparse_core.training.metrics import Confusion
from faceparse_core.training.painting import PLAIN, Augmentation, exchange_sides
from faceparse_core.training.running import learning_rate, step_sizes
from faceparse_core.training.train import TrainConfig, train
from faceparse_core.training.wear import Wear

# Both eyes in one colour: when a picture is mirrored, their ids are exchanged.
COLOURS = {0: (40, 80, 120), 1: (230, 180, 150), 2: (250, 60, 60), 4: (30, 200, 60), 5: (30, 200, 60), 13: (90, 50, 20)}


def draw_face(seed: int, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    x, y, r = *rng.uniform(0.4, 0.6, 2) * side, rng.uniform(0.25, 0.35) * side

    def disc(label, cx, cy, radius):
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=label)

    disc(13, x, y - 0.3 * r, 1.2 * r)
    disc(1, x, y, r)
    disc(5, x - 0.4 * r, y - 0.2 * r, 0.2 * r)  # the subject's right eye: on the left
    disc(4, x + 0.4 * r, y - 0.2 * r, 0.2 * r)
    disc(2, x, y + 0.2 * r, 0.2 * r)
    mask = np.array(mask)
    image = np.zeros((side, side, 3), np.uint8)
    for label, colour in COLOURS.items():
        image[mask == label] = colour
    return (image + rng.integers(0, 20, image.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part in ("images", "masks", "backgrounds"):
        (folder / part).mkdir()
    for i in range(8):
        image, mask = draw_face(i)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(folder / "backgrounds" / "wall.png")
    (folder / "train.txt").write_text("\n".join(map(str, range(6))))
    (folder / "val.txt").write_text("6\n7\n")
    return folder


@pytest.fixture
def imagenet(monkeypatch):
    """The encoder of a random Lite under the names of the ImageNet file."""

    def names(network):
        weights = {}
        pairs = [(network.stem, "_conv_stem", "_bn0")]
        for i, block in enumerate(b for stage in network.stages for b in stage):
            if not isinstance(block.expand, torch.nn.Identity):
                pairs.append((block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"))
            pairs.append((block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"))
            pairs.append((block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"))
        for module, conv, norm in pairs:
            weights[f"{conv}.weight"] = module.conv.weight.detach()
            weights |= {f"{norm}.{k}": v.detach() for k, v in module.norm.state_dict().items()}
        return weights

    torch.manual_seed(0)
    source = Lite()
    monkeypatch.setattr(training, "_imagenet_weights", lambda: names(source))
    return source


def config(data, out, **changes):
    defaults = {
        "data": (str(data),), "out": str(out), "backgrounds": str(data / "backgrounds"),
        "sizes": ((0.5, 64), (0.5, 96)),
        "steps": 6, "batch_size": 4, "device": "cpu", "precision": "fp32", "workers": 0, "save_every": 0.0,
    }  # fmt: skip
    return TrainConfig.for_architecture("lite", **(defaults | changes))


def test_the_encoder_is_filled_from_imagenet(imagenet, data, tmp_path):
    network = training._network(config(data, tmp_path))
    for name, tensor in network.state_dict().items():
        if name.startswith(("stem", "stages")) and "num_batches" not in name:
            assert torch.equal(tensor, imagenet.state_dict()[name]), name


def test_training_learns_and_leaves_a_checkpoint(imagenet, data, tmp_path):
    first = train(
        config(
            data,
            tmp_path / "a",
            steps=30,
            sizes=((1.0, 64),),
            augmentation=PLAIN,
            ema=0.8,
            learning_rate=5e-3,
            save_every=999.0,
        )
    )
    with (tmp_path / "a" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= float(rows[-1]["val_mean_f1"]) <= 1
    found = checkpoints.find(first)
    assert found.architecture == "lite" and first.stat().st_size < 10e6
    parsing = FaceParser(first, device="cpu", precision="fp32").parse(draw_face(7)[0])
    assert parsing.labels.shape == (1, 96, 96)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(imagenet, data, tmp_path, monkeypatch):
    whole = train(config(data, tmp_path / "whole"))
    real_update, steps = running.Average.update, []

    def stop_in_the_middle(self, network):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        real_update(self, network)

    monkeypatch.setattr(running.Average, "update", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        train(config(data, tmp_path / "parts"))
    monkeypatch.setattr(running.Average, "update", real_update)
    parts = train(config(data, tmp_path / "parts"))
    a, b = (checkpoints.load(checkpoints.find(path), trainable=True).state_dict() for path in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not list(tmp_path.rglob("*.part"))
    # A finished run is not begun again.
    assert train(config(data, tmp_path / "parts")) == parts


def test_another_config_in_the_same_folder_is_refused(imagenet, data, tmp_path):
    train(config(data, tmp_path, steps=2))
    with pytest.raises(ValueError, match="learning_rate.*another --out"):
        train(config(data, tmp_path, steps=2, learning_rate=1.0))


def test_fine_tuning_starts_from_the_checkpoint(data, tmp_path):
    start = checkpoints.save(Lite(), tmp_path / "start.safetensors", dtype=torch.float32)
    tuned = train(config(data, tmp_path / "run", init=str(start), steps=1, learning_rate=0.0))
    a, b = (checkpoints.load(checkpoints.find(path), trainable=True).state_dict() for path in (start, tuned))
    assert all(torch.allclose(a[k], b[k], atol=2e-3) for k in a if "running" not in k and "batches" not in k)
    with pytest.raises(ValueError, match="lite checkpoint.*segformer"):
        train(TrainConfig.for_architecture("segformer-b0", data=str(data), out=str(tmp_path / "x"), init=str(start)))


def test_a_network_that_grows_begins_as_it_was_and_learns(data, tmp_path):
    torch.manual_seed(2)
    plain = Lite().eval()
    with torch.no_grad():
        pixels = torch.randn(1, 3, 64, 96)
        grown = plain.grown((1, 0, 2, 4)).eval()
        torch.testing.assert_close(grown(pixels), plain(pixels), rtol=0, atol=0)
    with pytest.raises(ValueError, match="blocks already"):
        grown.grown((1, 1, 1, 1))
    with pytest.raises(ValueError, match="4 expansions from 0 to 8"):
        plain.grown((1, 9, 0, 0))

    start = checkpoints.save(plain, tmp_path / "start.safetensors")
    out = train(config(data, tmp_path / "run", init=str(start), blocks=(1, 0, 2, 4), ema=0.5))
    network = checkpoints.load(checkpoints.find(out), trainable=True)
    assert network.config.blocks == (1, 0, 2, 4)
    assert all(network.blocks[i].project.norm.weight.abs().max() > 0 for i in (0, 2, 3))
    # What has them already goes on with them, whether they are asked for or not.
    again = train(config(data, tmp_path / "again", init=str(out), steps=1))
    assert checkpoints.load(checkpoints.find(again)).config.blocks == (1, 0, 2, 4)


def test_biases_are_moved_to_where_f1_is_highest(data, tmp_path):
    generator = torch.Generator().manual_seed(4)
    truth = torch.full((1, 128, 128), 13)
    truth[0, :20], truth[0, 60:64, 60:64] = 0, 16
    honest = torch.nn.functional.one_hot(truth, NUM_LABELS).float() + torch.randn(1, 128, 128, 19, generator=generator)
    logits = honest.permute(0, 3, 1, 2) * 1.5
    logits[:, 16] += 1.5  # a loss that wanted it found, whatever the price

    def mean_f1(bias):
        confusion = Confusion()
        confusion.add(truth, (logits + bias[None, :, None, None]).argmax(1))
        return confusion.mean_f1

    untold = torch.full((1, 128), 255)
    pictures = [(torch.cat([logits[0], logits[0][:, :1]], 1), torch.cat([truth[0], untold]).to(torch.uint8))]
    bias = calibrate.fit(iter(pictures))
    assert bias[0] == 0 and bias.abs().max() <= 2
    assert bias[16] < -1 and mean_f1(bias) > mean_f1(torch.zeros(NUM_LABELS)) + 0.02

    start = checkpoints.save(Lite(LiteConfig(blocks=(1, 0, 0, 0))), tmp_path / "a.safetensors", dtype=torch.float32)
    out = calibrate.calibrate(str(data), str(start), str(tmp_path / "b.safetensors"), pictures=2, device="cpu")
    a, b = (checkpoints.load(checkpoints.find(path), trainable=True).state_dict() for path in (start, out))
    assert {k for k in a if not torch.allclose(a[k], b[k], atol=2e-3)} <= {"classifier.bias"}
    with pytest.raises(ValueError, match="no lite checkpoint"):
        calibrate.calibrate(str(data), str(checkpoints.save(SegFormer(SIZES["b0"]), tmp_path / "b0")), "x")


def test_segformer_trains_by_the_published_recipe(data, tmp_path):
    recipe = TrainConfig.for_architecture("segformer-b0", data="d", out="o")
    assert (recipe.learning_rate, recipe.warm_up, recipe.sizes) == (6e-5, 0.01, ((1.0, 512),))
    out = train(
        TrainConfig.for_architecture(
            "segformer-b0",
            data=str(data),
            out=str(tmp_path),
            sizes=((1.0, 64),),
            steps=2,
            batch_size=2,
            workers=0,
            device="cpu",
            precision="fp32",
        )  # fmt: skip
    )
    parser = FaceParser(out, device="cpu", precision="fp32", resolution=64)
    assert parser.checkpoint.architecture == "segformer"
    assert parser.parse(draw_face(1)[0]).labels.shape == (1, 96, 96)


def test_unknown_architecture_and_data(tmp_path):
    with pytest.raises(ValueError, match="segformer-b0"):
        TrainConfig.for_architecture("segformer", data="d", out="o")
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 1


def batches(data, sizes, augmentation, seed, count=8, **options) -> Batches:
    sets = [Labelled(Source(str(data)), "train")]
    return Batches(
        sets, sizes, count, augmentation, seed, backgrounds=read_backgrounds(data / "backgrounds"), **options
    )


def test_a_batch_depends_on_seed_and_step_alone(data):
    some = batches(data, [64, 64, 96], Augmentation(scenes=0.5), seed=1)
    pixels, labels = some[1]
    again = batches(data, [64, 64, 96], Augmentation(scenes=0.5), seed=1)[1]
    assert torch.equal(pixels, again[0]) and torch.equal(labels, again[1])
    other = batches(data, [64, 64, 96], Augmentation(scenes=0.5), seed=2)[1]
    assert not torch.equal(pixels, other[0])
    assert pixels.shape == (8, 3, 64, 64) and labels.shape == (8, 64, 64) and some[2][0].shape[-1] == 96
    assert pixels.min() >= 0 and pixels.max() <= 1 and set(labels.unique().tolist()) <= set(COLOURS)


def test_labels_at_every_second_pixel_are_some_of_all(data):
    whole, some = (batches(data, [64], PLAIN, 3, label_stride=stride)[0][1] for stride in (1, 2))
    assert some.shape == (8, 32, 32)
    assert any(torch.equal(some, whole[:, y::2, x::2]) for y in (0, 1) for x in (0, 1))


def test_pixels_and_labels_stay_together(data):
    """However a drawn face is turned, mirrored and scaled: each label keeps its colour, the sides keep their places."""
    colours = torch.tensor([COLOURS.get(i, (0, 0, 0)) for i in range(NUM_LABELS)]) / 255
    still = Augmentation(wear=Wear.none(), scenes=0.4, strong_tilt=0.0, any_tilt=0.0, covered=0.0)
    pixels, labels = batches(data, [96], still, 0, count=40)[0]
    far = (pixels.permute(0, 2, 3, 1) - colours[labels.long()] - 10 / 255).abs().amax(-1) > 0.25
    inner = -F.max_pool2d(-labels.float(), 3, 1, 1) == F.max_pool2d(labels.float(), 3, 1, 1)  # away from borders
    for label in (1, 2, 4, 5, 13):
        at = (labels == label) & inner
        assert at.any() and far[at].float().mean() < 0.1, label
    for one in labels:
        left, right = ((one == label).nonzero().float() for label in (4, 5))
        if len(left) > 4 and len(right) > 4:
            assert left[:, 1].mean() > right[:, 1].mean()


# ---------------------------------------------------------------------------------------------- partly told masks


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Pictures that are no portraits, twice as high as wide: a head whose hair is told, skin that is not."""
    folder = tmp_path_factory.mktemp("street")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for i in range(3):
        image, mask = draw_face(20 + i, 64)
        image, mask = (np.concatenate([one, np.zeros_like(one)]) for one in (image, mask))
        mask[(mask > 0) & (mask != 13)] = UNTOLD
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text("0 1 2")
    return folder


def test_a_source_is_what_its_text_says():
    assert Source.parse("a/b,share=0.2,told=hair,framing=picture") == Source("a/b", 0.2, "hair", "picture")
    assert Source.parse("a/b") == Source("a/b", 1.0, "all", "face")
    for wrong in ("a,size=3", "a,share=much", ",share=1", "a,share=0", "a,told=eyes", "a,framing=wide"):
        with pytest.raises(ValueError):
            Source.parse(wrong)


def test_sets_are_mixed_by_their_shares_and_framings(data, street):
    sources = [Source(str(data), 0.5), Source(str(street), 0.5, "hair", "picture")]
    still = Augmentation(empty=0.0, scenes=0.0, covered=0.0, zoom=(1.0, 1.0), wear=Wear.none())
    _, labels = Batches([Labelled(one, "train") for one in sources], [64], 60, still, seed=1)[0]
    of_hair_alone = (labels == NOT_HAIR).flatten(1).any(1)
    assert 15 < of_hair_alone.sum() < 45
    assert set(labels[of_hair_alone].unique().tolist()) <= {0, 13, NOT_HAIR, UNTOLD}
    assert set(labels[~of_hair_alone].unique().tolist()) <= set(COLOURS)
    # Where all is told but the skin, that stays untold.
    _, labels = Batches([Labelled(Source(str(street), framing="picture"), "train")], [64], 20, still, seed=1)[0]
    assert set(labels.unique().tolist()) == {0, 13, UNTOLD}


def test_masks_may_leave_pixels_untold_but_hold_no_unknown_label(street, tmp_path):
    _, mask = read_pair(street, "0")
    assert UNTOLD in mask
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.full((4, 4), 19, np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="holds the value 19.*255 is not told"):
        read_pair(tmp_path, "a")


def test_rare_labels_are_drawn_oftener():
    counts = torch.zeros(3, NUM_LABELS, dtype=torch.int64)
    counts[:, 1], counts[1, 16], counts[2, 15] = 50, 3, 3
    plain, necklace, earring = drawing_weights(counts, 1.0).tolist()
    assert plain == 1 < earring < necklace
    assert drawing_weights(counts, 0.0).tolist() == [1, 1, 1]


def test_what_is_not_told_teaches_nothing():
    torch.manual_seed(0)
    criterion = Criterion(torch.rand(NUM_LABELS), 0.5, 0.5)
    logits = torch.randn(1, NUM_LABELS, 8, 8, requires_grad=True)
    labels = torch.randint(0, NUM_LABELS, (1, 8, 8))
    labels[:, :, 4:] = UNTOLD
    (gradient,) = torch.autograd.grad(criterion(logits, labels), logits)
    assert not gradient[..., 4:].any() and gradient[..., :4].any()
    told = criterion(logits[..., :4], labels[..., :4])
    assert torch.allclose(criterion(logits, labels), told, atol=1e-6)
    nothing = criterion(logits, torch.full_like(labels, UNTOLD))
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()


def test_not_hair_lets_the_others_share_what_hair_loses():
    criterion = Criterion(torch.rand(NUM_LABELS), 0.5, 0.0)
    logits = torch.randn(1, NUM_LABELS, 8, 8, requires_grad=True)
    labels = torch.full((1, 8, 8), NOT_HAIR)
    loss = criterion(logits, labels)
    assert torch.allclose(loss, -torch.log(1 - logits.softmax(1)[:, 13]).mean(), atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 13] > 0).all() and (gradient[:, :13] <= 0).all() and (gradient[:, 14:] <= 0).all()
    # Certain hair where there is none is a large loss, not an infinite one.
    certain = torch.zeros(1, NUM_LABELS, 8, 8)
    certain[:, 13] = 200
    assert 5 < Criterion(torch.rand(NUM_LABELS), 0.5, 0.5)(certain, labels) < 100


def test_training_takes_several_folders(imagenet, data, street, tmp_path, capsys):
    arguments = [
        "train", str(data), f"{street},share=0.5,told=hair,framing=picture", "--out", str(tmp_path / "run"),
        "--steps", "2", "--batch-size", "2", "--sizes", "1:64", "--device", "cpu", "--precision", "fp32",
        "--workers", "0", "--augment", "scenes=0,noise=0.5", "--init", "lite", "--freeze", "2",
    ]  # fmt: skip
    assert main(arguments) == 0
    before, after = (
        checkpoints.load(checkpoints.find(path), trainable=True).state_dict()
        for path in ("lite", tmp_path / "run" / "lite.safetensors")
    )
    for key in before:
        still = key.startswith(("stem.", "stages.0.", "stages.1."))
        assert not still or torch.equal(before[key], after[key]), key
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert main([*arguments[:3], "--out", str(tmp_path / "b"), "--augment", "rain=1"]) == 1
    assert "unknown augmentation rain" in capsys.readouterr().err


def test_exchanging_sides_twice_changes_nothing():
    mask = torch.arange(NUM_LABELS, dtype=torch.uint8)
    assert exchange_sides(mask).tolist() == [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19)]
    assert torch.equal(exchange_sides(exchange_sides(mask)), mask)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_quick_depthwise_gradients_are_the_gradients(kernel, stride):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    quick = torch.nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    quick.load_state_dict(plain.state_dict())
    quicken_depthwise(quick)
    inputs = [torch.randn(2, 8, 16, 16).requires_grad_() for _ in range(1)] * 2
    gradients = []
    for conv, x in zip((plain, quick), inputs, strict=True):
        x.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = conv(x)
        y.float().pow(2).sum().backward()
        gradients.append((y.detach().float(), x.grad.clone(), conv.weight.grad))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() < 0.02 * a.abs().max()


def test_the_loss_is_what_its_parts_are():
    """The Dice part, summed by label without a one-hot map, equals the one computed with it."""
    torch.manual_seed(0)
    frequencies = torch.rand(NUM_LABELS)
    logits, labels = torch.randn(2, NUM_LABELS, 8, 8), torch.randint(0, 6, (2, 32, 32))
    full = F.interpolate(logits, size=(32, 32), mode="bilinear")
    probability, truth = full.softmax(1), F.one_hot(labels, NUM_LABELS).permute(0, 3, 1, 2).float()
    dice = 2 * (probability * truth).sum((0, 2, 3)) / (probability.sum((0, 2, 3)) + truth.sum((0, 2, 3)))
    alone, both = Criterion(frequencies, 0.5, 0.0), Criterion(frequencies, 0.5, 0.5)
    assert torch.allclose(both(logits, labels) - alone(logits, labels), 0.5 * (1 - dice[:6]).mean(), atol=1e-5)
    assert torch.allclose(alone(logits, labels), F.cross_entropy(full, labels, alone.weights), atol=1e-5)


def test_the_rate_warms_up_and_falls():
    recipe = TrainConfig.for_architecture("lite", data="d", out="o", steps=100)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(recipe.learning_rate)
    assert all(a >= b for a, b in zip(rates[2:], rates[3:], strict=False)) and rates[-1] < 0.02 * recipe.learning_rate
    assert step_sizes(recipe)[0] == 256 and step_sizes(recipe)[-1] == 512 and len(step_sizes(recipe)) == 100
    with pytest.raises(ValueError, match="add up to 1"):
        step_sizes(TrainConfig.for_architecture("lite", data="d", out="o", sizes=((0.5, 64),)))


def test_figures_of_a_known_confusion():
    confusion = Confusion()
    truth = torch.tensor([0, 0, 1, 1, 1, 2])
    confusion.add(truth, torch.tensor([0, 1, 1, 1, 0, 2]))
    assert confusion.accuracy == pytest.approx(4 / 6)
    assert confusion.f1[1].item() == pytest.approx(2 / 3) and confusion.iou[1].item() == pytest.approx(1 / 2)
    assert confusion.mean_f1 == pytest.approx((2 / 3 + 1) / 2)  # labels 1 and 2; the others do not occur
    assert confusion.mean_iou == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert figures(confusion)["labels"][5]["f1"] is None
    assert "nan" not in table(confusion) and "mean F1 without background 0.8333" in table(confusion)
    picture = confusion_picture(confusion)
    assert picture.width > 700 and len(picture.getcolors(10_000)) > 4
    with pytest.raises(ValueError, match="one shape"):
        confusion.add(truth, truth[:3])


def test_evaluate_command(data, capsys, tmp_path):
    arguments = ["evaluate", str(data), "--model", "lite", "--device", "cpu", "--resolution", "96"]
    assert main([*arguments, "--json", "--confusion", str(tmp_path / "c.png")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["labels"]) == NUM_LABELS and 0 <= result["mean_f1"] <= 1
    assert Image.open(tmp_path / "c.png").width > 700
    pooled = evaluate(FaceParser("lite", device="cpu", resolution=96), data, "train")
    assert pooled.counts.sum() == 6 * 96 * 96
    assert main([*arguments, "--split", "test"]) == 1
    assert "test.txt" in capsys.readouterr().err


def test_where_only_hair_is_told_only_hair_is_measured(street):
    parser = FaceParser("lite", device="cpu", resolution=64)
    whole, hair_alone = (evaluate(parser, f"{street}{options}", "val") for options in ("", ",told=hair"))
    assert hair_alone.counts[:, 13].equal(whole.counts[:, 13])
    assert not hair_alone.counts[:, [1, 2, 17, 18]].any()
    assert hair_alone.mean_f1 == hair_alone.f1[13] or not hair_alone.counts[13].any()


# ---------------------------------------------------------------------------------------------- outlines of hair


def outline_config(data, out, **changes) -> hair.HairConfig:
    defaults = {
        "steps": 4, "batch_size": 4, "size": 96, "device": "cpu", "precision": "fp32", "workers": 0, "save_every": 0.0,
    }  # fmt: skip
    return hair.HairConfig([str(data)], str(out), **(defaults | changes))


def outline_loss(network: HairOutline, data) -> float:
    """On the validation pictures, with masks that say nothing."""
    image, mask = zip(*(read_pair(data, name) for name in read_names(data, "val")), strict=True)
    pixels = running.normalise(torch.from_numpy(np.stack(image)).permute(0, 3, 1, 2) / 255)
    truth = torch.from_numpy(np.stack(mask) == 13)[:, None].float()
    given = torch.full_like(truth, 0.5)
    with torch.inference_mode():
        return hair.loss_of(given, network.eval()(pixels, given), truth, truth >= 0).item()


def test_outlines_of_hair_are_learnt_and_a_run_goes_on(data, tmp_path, monkeypatch):
    lite = checkpoints.load(checkpoints.find("lite"), trainable=True)
    before = start_from(lite)
    given = torch.rand(1, 1, 64, 64)
    assert not before(torch.randn(1, 3, 64, 64), given).any(), "it begins by changing nothing"

    hair.train(outline_config(data, tmp_path / "a", steps=20, ema=0.5, learning_rate=2e-3))
    first = torch.load(tmp_path / "a" / "last.pt", weights_only=True)
    assert first["step"] == 20
    after = HairOutline()
    after.load_state_dict(load_file(tmp_path / "a" / "hair.safetensors"))
    assert outline_loss(after, data) < 0.8 * outline_loss(before, data)

    path = hair.train(outline_config(data, tmp_path / "a", steps=21, ema=0.5, learning_rate=2e-3))
    assert torch.load(path.parent / "last.pt", weights_only=True)["step"] == 21


def test_only_a_lite_can_start_a_network_for_outlines(data, tmp_path):
    checkpoints.save(SegFormer(SIZES["b0"]), tmp_path / "segformer")
    with pytest.raises(ValueError, match="must be a lite checkpoint, not a SegFormer"):
        hair.train(outline_config(data, tmp_path / "b", init=str(tmp_path / "segformer")))


def test_the_outline_counts_most():
    truth = torch.zeros(1, 1, 128, 128)
    truth[..., 64:] = 1
    given = truth.clone()
    everywhere = truth >= 0
    right = hair.loss_of(given, torch.zeros_like(truth), truth, everywhere)
    at_the_edge, far_off = given.clone(), given.clone()
    at_the_edge[..., 60:64], far_off[..., 10:14] = 1, 1
    near, far = (hair.loss_of(wrong, torch.zeros_like(truth), truth, everywhere) for wrong in (at_the_edge, far_off))
    assert right < far < near
    elsewhere = everywhere.clone()
    elsewhere[..., 60:64] = False
    untold = [hair.loss_of(wrong, torch.zeros_like(truth), truth, elsewhere) for wrong in (at_the_edge, given)]
    assert untold[0] == untold[1]
