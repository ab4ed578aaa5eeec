"""FaceParser on the real portrait with the bundled model."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from faceparse_core import FaceParser, images, parser
from faceparse_core.devices import has_native
from faceparse_core.faces import Layout
from faceparse_core.labels import LABELS, NUM_LABELS
from faceparse_core.models.lite import Lite


@pytest.fixture(scope="module")
def lite() -> FaceParser:
    return FaceParser("lite", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def face(portrait) -> np.ndarray:
    """The head of the portrait, framed as the training pictures are: uint8 [224, 224, 3]."""
    return np.array(Image.open(portrait).crop((112, 4, 336, 228)))


@pytest.fixture(scope="module")
def parsed(lite, face):
    return lite.parse(face)


def centre(mask: torch.Tensor) -> tuple[float, float]:
    y, x = mask.nonzero(as_tuple=True)
    return x.float().mean().item(), y.float().mean().item()


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a == b).float().mean().item()


@pytest.mark.parametrize("framing", ["whole", "head"])
def test_the_portrait_has_its_parts(lite, portrait, face, framing):
    parsing = lite.parse(portrait if framing == "whole" else face)
    found = {label.name for label, area in zip(LABELS, parsing.areas[0].tolist(), strict=True) if area}
    parts = {"hair", "skin", "l_eye", "r_eye", "l_brow", "r_brow", "nose", "u_lip", "l_lip", "neck", "cloth"}
    assert parts <= found
    assert len(parsing.faces[0]) == 1


def test_left_is_the_subjects_left(parsed):
    """She looks at the camera: her left eye, brow and ear lie on the right of the picture."""
    for left, right in (("left eye", "right eye"), ("left brow", "right brow"), ("left ear", "right ear")):
        assert centre(parsed.mask(left)[0])[0] > centre(parsed.mask(right)[0])[0] + 20
    assert torch.equal(parsed.mask("viewer left eye"), parsed.mask("right eye"))


def test_parts_lie_where_a_face_has_them(parsed):
    x_nose, y_nose = centre(parsed.mask("nose")[0])
    assert centre(parsed.mask("hair")[0])[1] < centre(parsed.mask("brows")[0])[1] < centre(parsed.mask("eyes")[0])[1]
    assert centre(parsed.mask("eyes")[0])[1] < y_nose < centre(parsed.mask("upper lip")[0])[1]
    assert centre(parsed.mask("upper lip")[0])[1] < centre(parsed.mask("lower lip")[0])[1]
    box = parsed.faces[0][0]
    assert box.x < x_nose < box.x + box.width and box.y < y_nose < box.y + box.height


def test_a_mirrored_picture_has_its_sides_exchanged(lite, face, parsed):
    mirrored = lite.parse(face[:, ::-1])
    assert centre(mirrored.mask("left eye")[0])[0] > centre(mirrored.mask("right eye")[0])[0] + 20
    assert agreement(mirrored.mask("hair").flip(-1), parsed.mask("hair")) > 0.98


def test_every_form_of_a_picture_gives_the_same_labels(lite, face, parsed, tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(face).save(path)
    floats = torch.from_numpy(face).float()[None] / 255
    for form in (path, str(path), Image.fromarray(face), [face], face[None], torch.from_numpy(face)):
        assert torch.equal(lite.parse(form).labels, parsed.labels)
    # uint8 pictures are rounded when they are resized, float ones are not
    assert agreement(lite.parse(floats).labels, parsed.labels) > 0.995


def test_batches_equal_single_pictures(lite, face):
    pictures = [face, face[::-1].copy(), face[:, ::-1].copy(), np.full_like(face, 90), face]
    together = lite.parse(pictures, batch_size=2)
    assert together.labels.shape == (5, 224, 224)
    for one, picture in zip(together, pictures, strict=True):
        assert agreement(one.labels, lite.parse(picture).labels) > 0.9999


def test_sizes_shapes_and_kinds_may_mix(lite, face):
    wide = np.array(Image.fromarray(face).resize((400, 100)))
    pictures = [face, wide, torch.rand(1, 1, 1, 3), torch.rand(2, 40, 30, 3), Image.new("CMYK", (70, 50))]
    parsing = lite.parse(pictures)
    shapes = [(224, 224), (100, 400), (1, 1), (40, 30), (40, 30), (50, 70)]
    assert [tuple(one.labels.shape[1:]) for one in parsing] == shapes
    assert agreement(parsing[0].labels, lite.parse(face).labels) > 0.9999


def test_progress_is_told_and_may_stop_the_work(lite, face):
    told = []
    lite.parse([face] * 5, batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and list(dict.fromkeys(told)) == [(0, 5), (2, 5), (4, 5), (5, 5)]
    told.clear()
    lite.parse([face] * 5, batch_size=2, faces="image", progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        lite.parse([face] * 5, batch_size=2, progress=stop)


def test_preprocessing_equals_the_published(lite, portrait):
    """What the network is shown under fit='stretch' is what transformers' processor makes, to 1/255."""
    from transformers import SegformerImageProcessor

    picture = Image.open(portrait).resize((700, 410))
    expected = SegformerImageProcessor(
        do_resize=True, size={"height": 512, "width": 512}, resample=2, do_rescale=True, do_normalize=True,
        image_mean=list(lite.checkpoint.mean), image_std=list(lite.checkpoint.std),
    )(picture, return_tensors="pt")["pixel_values"]  # fmt: skip
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, pixels):
            seen.append(pixels)
            return torch.zeros(len(pixels), NUM_LABELS, 128, 128)

    stretched = FaceParser("lite", device="cpu", precision="fp32", fit="stretch")
    stretched.network = Spy()
    stretched.parse(picture)
    std = torch.tensor(lite.checkpoint.std)[:, None, None]
    assert ((seen[0] - expected) * std).abs().max() <= 1 / 255 + 1e-5


@pytest.mark.parametrize("size", [(300, 100), (90, 700), (512, 288), (33, 1000), (1, 1), (3, 5000)])
def test_a_padded_picture_keeps_its_proportions(size):
    frame = FaceParser("lite", device="cpu", precision="fp32", fit="pad")._layout(*size)
    height, width = frame.inner
    assert frame.size[0] % 32 == frame.size[1] % 32 == 0
    assert 0 <= frame.size[0] - height < 32 and 0 <= frame.size[1] - width < 32
    assert abs(height / size[0] - width / size[1]) * min(size) <= 1  # within the rounding to pixels
    assert frame.size[0] * frame.size[1] <= 1.4 * 512 * 512
    # The image's corners lie in the window where they were put.
    window = frame.window(*size)
    scale = frame.size[1] / window.width
    assert abs((0 - window.x) * scale - (frame.size[1] - width) // 2) < 1e-6


def test_auto_fit_keeps_proportions_where_the_network_takes_any_size(lite):
    assert lite._layout(300, 310).size == (512, 512)
    assert lite._layout(300, 400).size[0] < lite._layout(300, 400).size[1]
    other = FaceParser(replace(lite.checkpoint, architecture="transformers"), "cpu", "fp32", network=lite.network)
    assert other._layout(300, 400).size == (512, 512)


@pytest.mark.parametrize(("fit", "whole"), [("auto", (384, 384)), ("pad", (384, 384)), ("stretch", (512, 512))])
def test_beside_faces_with_windows_of_their_own_the_whole_is_seen_smaller(lite, face, fit, whole):
    parser = FaceParser("lite", device="cpu", precision="fp32", fit=fit)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, pixels):
            seen.extend([tuple(pixels.shape[2:])] * len(pixels))
            return lite.network(pixels)

    parser.network = Spy()
    picture = np.zeros((900, 900, 3), np.uint8)
    parser.parse(picture, faces=[(300, 300, 150, 200), (600, 300, 150, 200)])
    assert seen == [whole, (512, 512), (512, 512)]
    seen.clear()
    parser.parse([picture, face])  # nobody is there; a portrait
    assert seen == [(512, 512)] * 2


def test_padding_colours_only_what_the_picture_does_not_cover(face):
    frame = Layout((64, 96), (50, 80))
    filled = frame.fill(torch.from_numpy(face), (0.5, 0.25, 1.0))
    inside = filled[7:57, 8:88]
    assert torch.equal(inside, images.resize(torch.from_numpy(face), (50, 80)))
    outside = torch.ones(64, 96, dtype=torch.bool)
    outside[7:57, 8:88] = False
    assert (filled[outside] == torch.tensor([127, 63, 255], dtype=torch.uint8)).all()


def test_a_wide_picture_is_parsed_where_the_face_is(lite, face):
    """The same face in the middle of a 3:1 picture: its labels stay where they are."""
    wide = np.full((224, 672, 3), 128, dtype=np.uint8)
    wide[:, 224:448] = face
    parsing = lite.parse(wide)
    inside, alone = parsing.mask("face")[0, :, 224:448], lite.parse(face).mask("face")[0]
    assert (inside * alone).sum() / torch.maximum(inside, alone).sum() > 0.9
    assert centre(parsing.mask("nose")[0])[0] == pytest.approx(224 + centre(lite.parse(face).mask("nose")[0])[0], abs=4)


def test_bfloat16_agrees_with_float32(face, parsed):
    half = FaceParser("lite", device="cpu", precision="bf16").parse(face)
    assert half.logits[0].dtype == torch.float32
    assert agreement(half.labels, parsed.labels) > 0.99


def test_the_network_is_loaded_once_and_shared():
    found = []
    threads = [threading.Thread(target=lambda: found.append(FaceParser("lite", "cpu", "fp32"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({id(p.network) for p in found}) == 1
    # In another precision it is another one, where this processor has that.
    assert (FaceParser("lite", "cpu", "bf16").network is found[0].network) == (not has_native("bf16"))


def test_a_changed_file_is_loaded_anew(tmp_path):
    from faceparse_core import checkpoints

    file = tmp_path / "mine.safetensors"
    checkpoints.save(Lite(), file, dtype=torch.float32)
    first = FaceParser(file, "cpu", "fp32").network
    assert FaceParser(file, "cpu", "fp32").network is first
    checkpoints.save(Lite(), file, dtype=torch.float32)
    assert FaceParser(file, "cpu", "fp32").network is not first


def test_threads_parse_at_once(lite, face, parsed):
    results = [None] * 4

    def work(i):
        results[i] = lite.parse(face).labels

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(labels, parsed.labels) for labels in results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'.*cpu"),
        ({"device": "cuda:7"}, "no device 'cuda:7' here"),
        ({"precision": "fp8"}, "unknown precision 'fp8'.*bf16"),
        ({"resolution": 500}, "multiple of 32.*500"),
        ({"resolution": 0}, "multiple of 32"),
        ({"fit": "crop"}, "unknown fit 'crop'.*stretch"),
        ({"model": "light"}, "lite"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        FaceParser(**{"model": "lite", "device": "cpu", **arguments})


@pytest.mark.parametrize(
    "bad",
    [[], np.zeros((0, 8, 8, 3), np.uint8), torch.full((1, 8, 8, 3), float("nan")), torch.ones(1, 8, 8, 3) * 200, 7],
)
def test_bad_pictures_are_told(lite, bad):
    with pytest.raises(ValueError):
        lite.parse(bad)


class Cramped(torch.nn.Module):
    """A network on a device that has memory for so many images."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most, self.batches = network, most, []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(pixels)


@pytest.fixture
def cramped(lite, monkeypatch):
    """A parser that takes its device for a GPU; what is sent there stays here."""

    def make(most):
        tight = FaceParser(lite.checkpoint, "cpu", "fp32", network=Cramped(lite.network, most))
        tight.device = torch.device("cuda")
        return tight

    monkeypatch.setattr(parser, "_sent", lambda pixels, device: pixels)
    monkeypatch.setattr(parser, "_empty_cache", lambda device: None)
    return make


def test_a_batch_that_does_not_fit_is_halved(cramped, lite, face, caplog):
    tight = cramped(2)
    expected = lite.parse([face] * 5, faces="image").labels
    assert torch.equal(tight.parse([face] * 5, batch_size=5, faces="image").labels, expected)
    assert tight.network.batches == [5, 3, 2, 1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 and "no memory" in caplog.text


def test_an_image_that_does_not_fit_goes_to_the_cpu(cramped, lite, face, caplog):
    labels = cramped(0).parse(face, batch_size=1, faces="image").labels
    assert agreement(labels, lite.parse(face, faces="image").labels) > 0.99
    assert "going on on the CPU" in caplog.text


def test_other_errors_of_a_device_are_raised(cramped, face, monkeypatch):
    tight = cramped(1)
    monkeypatch.setattr(tight.network, "forward", lambda pixels: (_ for _ in ()).throw(RuntimeError("misaligned")))
    with pytest.raises(RuntimeError, match="misaligned"):
        tight.parse(face, batch_size=1, faces="image")


def test_bad_batch_size(lite, face):
    with pytest.raises(ValueError, match="batch_size"):
        lite.parse(face, batch_size=0)


def test_folding_changes_nothing():
    network = Lite().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.normal_(module.bias)
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = network(pixels)
        after = network.fold()(pixels)
    assert before.shape == (1, NUM_LABELS, 16, 24)
    assert (before - after).abs().max() < 1e-3 * before.abs().max()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_importing_and_parsing_load_no_transformers(portrait):
    """In a process of its own: the import brings neither torch nor models, parsing with lite no transformers."""
    code = f"""
import sys
import faceparse_core
assert "torch" not in sys.modules
faceparse_core.FaceParser("lite", device="cpu").parse({str(portrait)!r}).labels
assert "transformers" not in sys.modules and "scipy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
