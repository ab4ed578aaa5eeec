from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from faceparse_core import images

ORIENTATION = 0x0112


def drawn(height: int, width: int) -> np.ndarray:
    """A picture [H, W, 3] uint8 that is hard to resize: a ramp, noise and sharp stripes."""
    ramp = np.linspace(0, 255, width)[None, :] * np.ones((height, 1))
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width))
    stripes = np.indices((height, width)).sum(0) // 3 % 2 * 255
    return np.stack([ramp, noise, stripes], axis=-1).astype(np.uint8)


def as_floats(image: torch.Tensor) -> torch.Tensor:
    return image / 255 if image.dtype == torch.uint8 else image


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return drawn(20, 30)


# What load accepts


def test_a_path_a_string_and_a_picture_are_the_same(portrait):
    expected = torch.from_numpy(np.array(Image.open(portrait)))
    for given_ in (portrait, str(portrait), Image.open(portrait)):
        (image,) = images.load(given_)
        assert image.dtype == torch.uint8 and image.shape == (512, 512, 3)
        assert torch.equal(image, expected)


def test_arrays_and_tensors_are_looked_at_in_place(rgb):
    floats = torch.rand(2, 20, 30, 3)
    (image,) = images.load(rgb)
    assert image.data_ptr() == rgb.ctypes.data
    first, second = images.load(floats)
    assert first.data_ptr() == floats.data_ptr() and torch.equal(second, floats[1])
    (view,) = images.load(torch.rand(20, 30, 4))
    assert view.shape == (20, 30, 3) and view.stride() == (120, 4, 1)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (1, 5, 7, 1), (3, 5, 7, 3), (2, 5, 7, 4)])
@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_shapes_and_kinds(library, kind, shape):
    values = np.random.default_rng(0).random(shape)
    whole = np.dtype(kind).kind == "u"
    array = (values * np.iinfo(kind).max).astype(kind) if whole else values.astype(kind)
    loaded = images.load(array if library == "numpy" else torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))
    assert len(loaded) == (shape[0] if len(shape) == 4 else 1)
    colours = values.reshape(len(loaded), 5, 7, -1)[..., :3]
    for image, expected in zip(loaded, colours, strict=True):
        assert image.shape == (5, 7, 3)
        assert image.dtype == (torch.uint8 if whole else torch.float32)
        assert np.abs(as_floats(image).numpy() - expected).max() <= 1.01 / 255


def test_a_list_may_mix_everything_and_keeps_the_order(portrait, rgb):
    loaded = images.load([portrait, rgb, torch.rand(2, 4, 4, 3), Image.new("L", (1, 1), 77)])
    assert [tuple(image.shape) for image in loaded] == [(512, 512, 3), (20, 30, 3), (4, 4, 3), (4, 4, 3), (1, 1, 3)]
    assert loaded[-1].flatten().tolist() == [77, 77, 77]
    assert torch.equal(images.load(tuple(loaded))[1], loaded[1])


def test_mirrored_and_read_only_arrays(rgb):
    frozen = rgb.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.load(frozen)[0].numpy().tolist() == rgb.tolist()
        assert images.load(rgb[:, ::-1, ::-1])[0].numpy().tolist() == rgb[:, ::-1, ::-1].tolist()


def test_a_read_only_array_is_looked_at_in_place_and_kept():
    def frozen():
        array = np.full((40, 50, 3), 7, np.uint8)
        array.flags.writeable = False
        return array

    array = frozen()
    assert images.load(array)[0].data_ptr() == array.ctypes.data
    assert not array.flags.writeable
    alone = images.load(frozen())[0]
    others = [np.zeros((40, 50, 3), np.uint8) for _ in range(9)]
    assert alone.unique().tolist() == [7]
    assert len(others) == 9


def test_a_tensor_with_gradient_is_detached():
    assert not images.load(torch.rand(4, 4, 3, requires_grad=True))[0].requires_grad


@pytest.mark.parametrize(
    ("values", "clamped"),
    [([-0.1, 0.5, 1.0], [0, 0.5, 1]), ([0.0, 0.5, 1.15], [0, 0.5, 1]), ([-0.2, 0.25, 1.2], [0, 0.25, 1])],
)
def test_small_overshoot_is_clamped_and_the_given_tensor_left_alone(values, clamped):
    overshooting = torch.tensor(values).expand(2, 2, 3).clone()
    before = overshooting.clone()
    assert images.load(overshooting)[0][0, 0].tolist() == clamped
    assert torch.equal(overshooting, before)


# Pictures and files of every kind


def write(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16B", "F"]
)
def test_picture_modes(mode, rgb):
    source = Image.fromarray(rgb)
    if mode in ("I", "I;16", "I;16B"):
        grey = np.asarray(source.convert("L"))
        picture = Image.fromarray(
            (grey.astype(np.int32) * 257).astype({"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode])
        )
        expected = np.stack([grey] * 3, axis=-1)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(source.convert("L")) / np.float32(255))
        expected = np.stack([np.asarray(source.convert("L"))] * 3, axis=-1)
    else:
        picture = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
        expected = np.asarray(picture.convert("RGB"))
    assert picture.mode == mode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image,) = images.load(picture)
    assert image.shape == (20, 30, 3)
    assert np.abs(as_floats(image).numpy() * 255 - expected).max() < 1e-3


def test_alpha_is_dropped_not_blended():
    (image,) = images.load(Image.new("RGBA", (3, 2), (10, 200, 30, 0)))
    assert image[0, 0].tolist() == [10, 200, 30]
    (image,) = images.load(Image.new("LA", (3, 2), (90, 0)))
    assert image[0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_palette_with_transparent_colours(tmp_path, transparency):
    picture = Image.new("P", (3, 1))
    picture.putpalette([200, 10, 20, 30, 210, 40, 50, 60, 220])
    picture.putdata([0, 1, 2])
    path = write(picture, tmp_path / "palette.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image,) = images.load(path)
    assert image[0].tolist() == [[200, 10, 20], [30, 210, 40], [50, 60, 220]]


def test_sixteen_bit_png_file(tmp_path):
    grey = np.array([[0, 257, 65535, 32896]], dtype=np.uint16)
    (image,) = images.load(write(Image.fromarray(grey), tmp_path / "deep.png"))
    assert image[0, :, 0].tolist() == [0, 1, 255, 128]


def test_cmyk_jpeg_file(tmp_path):
    (image,) = images.load(write(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=100))
    assert (image[8, 8].int() - torch.tensor([255, 0, 0])).abs().max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = 255  # the corner that shows how the picture lies
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = write(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"turned.{suffix}", exif=exif)
    (image,) = images.load(path)
    assert np.abs(image.numpy().astype(int) - upright).max() <= 8


def test_a_given_picture_is_not_changed_by_its_orientation():
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[ORIENTATION] = 6
    assert images.load(picture)[0].shape == (4, 2, 3)
    assert picture.size == (4, 2) and picture.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_the_first_frame_of_many(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    path = tmp_path / f"frames.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    (image,) = images.load(path)
    assert image.shape == (8, 16, 3) and image[4, 8].tolist() == [250, 0, 0]


def test_conversion_in_bands_covers_the_whole_picture(monkeypatch, rgb):
    monkeypatch.setattr(images, "_BAND_PIXELS", 100)  # 3 rows: the last band is shorter
    assert images.load(Image.fromarray(rgb))[0].numpy().tolist() == rgb.tolist()
    assert np.array(images.to_pil(torch.from_numpy(rgb / 255))).tolist() == rgb.tolist()


# What load refuses


@pytest.mark.parametrize(
    ("given_", "complaint"),
    [
        ([], "list of images is empty"),
        (None, "NoneType"),
        ({"image": 1}, "dict"),
        ([[0.5]], r"images\[0\] is of type list"),
        (np.zeros((0, 4, 4, 3), np.uint8), "empty"),
        (torch.zeros(4, 0, 3), "empty"),
        (torch.zeros(3), "1 dimensions"),
        (torch.zeros(1, 1, 4, 4, 3), "5 dimensions"),
        (torch.zeros(8, 8, 5), r"a tensor \[8, 8, 5\] of float32.*channels, 1, 3 or 4"),
        (torch.zeros(8, 8, 2), "channels, 1, 3 or 4"),
        (torch.zeros(3, 8, 8), r"channels come first.*image.permute\(1, 2, 0\)"),
        (torch.zeros(2, 3, 8, 8), r"channels come first.*images.permute\(0, 2, 3, 1\)"),
        (np.zeros((4, 4, 3), np.int64), r"an array \[4, 4, 3\] of int64; give a path"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.array([["a"]]), "array"),
        (torch.zeros(4, 4, 3, dtype=torch.int32), "int32"),
        (torch.full((4, 4, 3), float("nan")), "NaN"),
        (torch.full((4, 4, 3), float("inf")), "NaN or infinite"),
        (np.full((4, 4, 3), -np.inf), "NaN or infinite"),
        (torch.full((4, 4, 3), 254.0), "254.*divide it by 255"),
        (torch.full((4, 4, 3), 1.5), "1.5"),
        (torch.full((4, 4, 3), -1.0), "scale it to 0..1"),
        (Image.new("F", (4, 4), 200), "divide it by 255"),
        (Image.new("I", (4, 4), 70000), "70000"),
        (Image.new("LAB", (4, 4)), "mode LAB"),
        (Image.new("RGB", (0, 4)), "no pixels"),
    ],
)
def test_a_wrong_image_is_answered_with_what_was_given(given_, complaint):
    with pytest.raises(ValueError, match=complaint):
        images.load(given_)


def test_one_nan_among_many_values_and_its_place_in_the_list(rgb):
    bad = torch.rand(40, 50, 3)
    bad[31, 7, 1] = float("nan")
    with pytest.raises(ValueError, match=r"images\[1\].*NaN"):
        images.load([rgb, bad])


def test_files_that_cannot_be_read(tmp_path, portrait):
    with pytest.raises(FileNotFoundError, match=r"no file .*nobody\.jpg"):
        images.load(tmp_path / "nobody.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        images.load(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png is not a picture"):
        images.load(text)
    half = tmp_path / "half.jpg"
    half.write_bytes(portrait.read_bytes()[:30_000])
    with pytest.raises(ValueError, match=r"half\.jpg cannot be decoded.*truncated"):
        images.load([half])


@settings(max_examples=60)
@given(
    picture_format=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=5),
    kept=st.floats(0.01, 1),
)
def test_a_damaged_file_gives_an_image_or_a_value_error(tmp_path_factory, picture_format, damage, kept):
    path = tmp_path_factory.mktemp("damaged") / f"picture.{picture_format.lower()}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(drawn(12, 9)).save(path, picture_format, **({"exif": exif} if picture_format == "JPEG" else {}))
    content = bytearray(path.read_bytes())
    for place, value in damage:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(kept * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
        try:
            (image,) = images.load(path)
        except ValueError as error:
            assert "picture." in str(error)
        else:
            assert image.dtype == torch.uint8 and image.shape[2] == 3


# The resize


def published_pixels(image: np.ndarray, side: int, rescale: bool = True) -> torch.Tensor:
    """What the published processor gives for an image [H, W, 3]: normalised pixels [3, side, side]."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
    processor = kind(size={"height": side, "width": side}, do_rescale=rescale)
    return processor(image, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]


def our_pixels(image: np.ndarray, side: int) -> torch.Tensor:
    resized = as_floats(images.resize(images.load(image)[0], (side, side)))
    normalised = (resized - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    return normalised.permute(2, 0, 1)


@pytest.mark.parametrize("side", [512, 384, 640])
@pytest.mark.parametrize("source", ["portrait", (700, 300), (100, 130), (1, 1), (513, 511), (3, 2000)])
def test_preprocessing_equals_the_published_processor(portrait, source, side):
    image = np.array(Image.open(portrait)) if source == "portrait" else drawn(*source)
    one_step = 1.001 / 255 / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert ((our_pixels(image, side) - published_pixels(image, side)).abs() <= one_step).all()
    # Floats are never rounded, Pillow rounds after each of its two passes: half a step may come on top.
    floats = image.astype(np.float32) / 255
    assert ((our_pixels(floats, side) - published_pixels(image, side)).abs() <= 1.5 * one_step).all()


@example(source=(24, 69), target=(21, 45), layout="rgb")  # two steps from Pillow's
@example(source=(2, 1), target=(3, 1), layout="rgb")  # where torch errs: floats to a width of 1, and
@example(source=(9, 40), target=(33, 1), layout="turned")
@example(source=(5, 8), target=(1, 1), layout="turned")  # some layouts of uint8
@example(source=(5, 8), target=(1, 1), layout="grey")
@example(source=(1, 17), target=(7, 1), layout="planar")
@example(source=(17, 1), target=(1, 7), layout="planar")
@settings(max_examples=60)
@given(
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    layout=st.sampled_from(["rgb", "rgba view", "mirrored", "turned", "planar", "grey"]),
)
def test_resize_equals_pillow(source, target, layout):
    array = drawn(*source)
    image = torch.from_numpy(array)
    if layout == "rgba view":
        image = torch.cat([image, image[..., :1]], dim=-1)[..., :3]
    elif layout == "mirrored":
        image = image.flip(1)
    elif layout == "turned":
        image = image.transpose(0, 1)
    elif layout == "planar":
        image = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    elif layout == "grey":
        image = image[..., 1:2].expand(-1, -1, 3)
    source_pixels = np.ascontiguousarray(image.numpy())
    expected = by_pillow(source_pixels, target).astype(int)
    for resize in (images.resize, images._resize_by_products):  # on the CPU, and on other devices
        whole = resize(image, target)
        assert whole.dtype == torch.uint8 and whole.shape == (*target, 3)
        floats = resize(image / 255, target)
        assert floats.dtype == torch.float32 and floats.shape == (*target, 3)
        for channel in range(3):
            exact = by_pillow(source_pixels[..., channel] / np.float32(255), target)
            assert np.abs(floats[..., channel].numpy() - exact).max() < 1e-4
            # Pillow's own whole numbers are as near to the exact ones, on either side of them.
            assert np.abs(whole[..., channel].numpy() - 255 * exact).max() < 1.01
        assert np.abs(whole.numpy() - expected).max() <= 2


def by_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def test_resize_to_the_same_size_is_the_image_itself():
    image = torch.rand(5, 6, 3)
    assert images.resize(image, (5, 6)) is image


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (torch.zeros(4, 4, 3), (0, 4)),
        (torch.zeros(4, 4, 3), (4, -1)),
        (torch.zeros(4, 4), (2, 2)),
        (torch.zeros(4, 4, 3, dtype=torch.int32), (2, 2)),
    ],
)
def test_resize_refuses(image, size):
    with pytest.raises(ValueError, match="resize"):
        images.resize(image, size)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured through /proc")
def test_big_images_are_neither_copied_nor_made_float():
    """Peak memory over what was there before, in MB; the uint8 image itself has 24, as float32 it would have 96."""
    script = """
import numpy as np, torch
from PIL import Image
from faceparse_core import images
def peak(do):
    status = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
    open("/proc/self/clear_refs", "w").write("5")
    before = status()
    result = do()
    print(status() - before)
    return result
small = torch.zeros(64, 64, 3)
images.resize(small, (8, 8)); images.resize(small.byte(), (8, 8)); images.to_pil(small)
whole = torch.randint(0, 256, (2896, 2896, 3), dtype=torch.uint8)
peak(lambda: images.resize(images.load(whole)[0], (512, 512)))
picture = images.to_pil(whole)
peak(lambda: images.load(picture))
del picture, whole
floats = torch.rand(1, 2896, 2896, 3)
peak(lambda: images.resize(images.load(floats)[0], (512, 512)))
peak(lambda: images.to_pil(floats[0]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resize_uint8, load_picture, resize_float, to_picture = map(int, done.stdout.split())
    assert resize_uint8 < 20
    assert load_picture < 24 + 20
    assert resize_float < 40
    assert to_picture < 24 + 32 + 40  # the values, Pillow's four bytes a pixel, and a band


# Out again


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        (torch.tensor([[0, 128, 255]], dtype=torch.uint8), "L", [[0, 128, 255]]),
        (torch.tensor([[0.0, 0.5, 1.0, -3.0, 7.0]]), "L", [[0, 128, 255, 0, 255]]),
        (torch.tensor([[0.0, 0.25]], dtype=torch.float16), "L", [[0, 64]]),
        (torch.tensor([[True, False]]), "L", [[255, 0]]),
        (torch.tensor([[[1.0, 0.0, 0.2]]]), "RGB", [[[255, 0, 51]]]),
        (torch.tensor([[[1, 2, 3, 4]]], dtype=torch.uint8), "RGBA", [[[1, 2, 3, 4]]]),
        (torch.tensor([[[0.0, 1.0, 0.0, 1.0]]], requires_grad=True), "RGBA", [[[0, 255, 0, 255]]]),
    ],
)
def test_to_pil(values, mode, expected):
    picture = images.to_pil(values)
    assert picture.mode == mode
    assert np.array(picture).tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 2, 2),
        torch.zeros(1, 2, 2, 3),
        torch.zeros(0, 2, 3),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.full((2, 2), float("nan")),
    ],
)
def test_to_pil_refuses(values):
    with pytest.raises(ValueError, match="picture"):
        images.to_pil(values)


@given(st.integers(1, 12), st.integers(1, 12))
def test_a_picture_survives_the_way_there_and_back(height, width):
    image = torch.from_numpy(drawn(height, width))
    assert torch.equal(images.load(images.to_pil(image))[0], image)
    assert torch.equal(images.load(images.to_pil(image / 255))[0], image)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp", "a.tif", "a.bmp"])
def test_save_and_load(tmp_path, name):
    image = torch.full((16, 16, 3), 120, dtype=torch.uint8)
    path = images.save(image, tmp_path / name)
    assert path == tmp_path / name and os.listdir(tmp_path) == [name]
    assert (images.load(str(path))[0].int() - 120).abs().max() <= 2


def test_save_takes_pictures_and_replaces_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("old")
    images.save(Image.new("P", (2, 2)), str(path))
    with Image.open(path) as saved:
        assert saved.mode == "P"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.png.part", ".png"])
def test_save_refuses_unknown_suffixes(tmp_path, name):
    with pytest.raises(ValueError, match=r"suffix.*\.png"):
        images.save(torch.zeros(2, 2), tmp_path / name)


def test_save_refuses_what_the_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"JPEG.*RGBA.*\.png"):
        images.save(torch.zeros(2, 2, 4), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.png"):
        images.save(Image.new("F", (2, 2)), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_save_names_what_is_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*missing"):
        images.save(torch.zeros(2, 2), tmp_path / "missing" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"cannot write.*folder\.png"):
        images.save(torch.zeros(2, 2), tmp_path / "folder.png")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = images.save(torch.ones(2, 2), tmp_path / "a.png")
    old = path.read_bytes()

    def interrupted(self, file, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images.save(torch.zeros(2, 2), path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a.png"]
