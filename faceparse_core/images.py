"""Images in and out: the one place where paths, PIL pictures, numpy arrays and torch tensors turn into each other.

Inside the engine an image is a tensor ``[H, W, 3]``, RGB, either uint8 (0..255) or float32 (0..1). It may be a view of
what the caller gave: nothing here writes into it, and nobody else may. The one resize of the engine is here, too.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from faceparse_core.errors import explained, said
from faceparse_core.labels import LABELS

OneImage = str | Path | Image.Image | np.ndarray | Tensor
Images = OneImage | Sequence[OneImage]
"""One image, a batch, or a list that mixes both: see ``load``."""

ACCEPTED = (
    "a path, a PIL image, a uint8 or uint16 array [H, W], [H, W, C] or [B, H, W, C], a float array or tensor "
    "with values in 0..1 (ComfyUI's IMAGE), or a list of these; C is 1 (grey), 3 (RGB) or 4 (RGBA)"
)

# Bicubic resizing overshoots sharp corners by up to a fifth of the range: such values are clamped. Values further out
# are of a picture in another range (0..255 or -1..1), which clamping would ruin.
OVERSHOOT = 0.25

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the files of pictures end that are looked for in folders."""

# Formats that are read of strangers' pictures.
FROM_STRANGERS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# What the PNG files that we write say of themselves: who made them. Only such files are overwritten unasked.
_MARK = ("Software", "faceparse")

# Big pictures are converted in bands of rows of about this many pixels, so that a conversion needs no second picture.
_BAND_PIXELS = 1 << 20


def load(images: Images) -> list[Tensor]:
    """Read one image, a batch, or a list that mixes both, as tensors ``[H, W, 3]``: uint8 0..255 or float32 0..1.

    Accepted are a path (str or Path), a PIL image, a numpy array or torch tensor, and a list or tuple of these:

    - uint8 or uint16 ``[H, W]`` (grey), ``[H, W, C]`` or ``[B, H, W, C]``; of 16 bits the upper 8 are kept;
    - float ``[H, W]``, ``[H, W, C]`` or ``[B, H, W, C]`` with values in 0..1 (ComfyUI's IMAGE); values that overshoot a
      little, as after bicubic resizing, are clamped;
    - C is 1 (grey), 3 (RGB) or 4 (RGBA). Alpha is dropped: the colours under it are taken as they are.

    Files and PIL pictures may have any usual mode (grey, palette, alpha, CMYK, 16 bits); they are turned upright as
    their EXIF orientation says, and of several frames the current (in a file: the first) is taken. uint8 and float32
    data is not copied where torch can look at it in place; a tensor stays on its device.

    Raises FileNotFoundError for a missing file, and ValueError (what was given, what is accepted) for a file that is
    not a picture, an empty batch or list, NaN or infinite values, and a wrong rank, channel count, dtype or range.
    """
    if not isinstance(images, (list, tuple)):
        return _load_one(images, "the image")
    if not images:
        raise ValueError(f"the list of images is empty; give {ACCEPTED}")
    return [image for index, item in enumerate(images) for image in _load_one(item, f"images[{index}]")]


def decoded(data: bytes, name: str = "the picture", *, most_pixels: int | None = None) -> Tensor:
    """The picture in these bytes, a whole file of one of ``FROM_STRANGERS``, as ``load`` gives it: uint8 [H, W, 3].

    For what somebody else sends: Pillow's other readers, some of which call programs, are not asked. ``most_pixels``:
    more than these are refused before anything is decoded. Raises ValueError, with ``name``, for all that is no such
    picture.
    """
    return _pixels(opened(data, name, most_pixels=most_pixels), name)


def opened(data: bytes, name: str = "the picture", *, most_pixels: int | None = None) -> Image.Image:
    """As ``decoded``, a PIL picture in its own mode: with its transparency."""
    kinds = ", ".join(FROM_STRANGERS)
    return _opened(io.BytesIO(data), name, f"{name} is no picture: {kinds} are read", FROM_STRANGERS, most_pixels)


def as_float(image: Tensor) -> Tensor:
    """An image, uint8 or float (0..1) of any shape, as float32 in 0..1."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def empty(*shape: int) -> Tensor:
    """A float32 tensor on the CPU that is not filled yet. numpy asks the system for large pages, which torch does not:
    writing a large picture for the first time takes half as long."""
    return torch.from_numpy(np.empty(shape, dtype=np.float32))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image ``[H, W, 3]`` (uint8, or float 0..1) to ``size`` = (height, width); the dtype and device stay.

    Bilinear with antialias, as Pillow and the published processor do: uint8 results are, as theirs, within 1/255 of
    the exact ones. The work memory is that of the result at the image's height; no float copy is made of a big uint8
    image.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize to {height}x{width}: both sides must be at least 1")
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(f"resize takes a uint8 or float image [H, W, C], not {_describe(image)}")
    if image.shape[:2] == (height, width):
        return image
    if image.device.type != "cpu":
        # Elsewhere torch resizes no uint8, refuses strong reductions (CUDA) or knows no antialias (older MPS).
        return _resize_by_products(image, size)
    if image.shape[2] > 1 and image.stride(2) == 0:  # one channel shown as several: resize it once
        return resize(image[..., :1], size).expand(-1, -1, image.shape[2])
    # Where a side of the result is one pixel, torch errs: with uint8 in some layouts, with floats if it is the width.
    if image.dtype == torch.uint8 and 1 in (height, width):
        return resize(image.float(), size).round_().to(torch.uint8)
    if width == 1 < height:
        return resize(image.transpose(0, 1), (width, height)).transpose(0, 1)
    pixels = image.permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0)


def _resize_by_products(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``resize`` as two products of matrices, which every device has."""
    down, across = (_averages(fine, coarse, image.device) for fine, coarse in zip(image.shape, size, strict=False))
    values = image.float()
    resized = torch.einsum("hy,yxc,wx->hwc", down, values, across)
    return resized.round_().to(torch.uint8) if image.dtype == torch.uint8 else resized.to(image.dtype)


def _averages(pixels: int, samples: int, device: torch.device) -> Tensor:
    """For each of the ``samples`` along an axis the shares of the pixels in it, [samples, pixels]: a triangle round its
    centre, as wide as two of its own pixels, or of the image's where these are larger."""
    scale = pixels / samples
    centres = (torch.arange(samples, dtype=torch.float64) + 0.5) * scale
    distances = (torch.arange(pixels, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    shares = (1 - distances / max(scale, 1)).clamp_(min=0)
    return (shares / shares.sum(1, keepdim=True)).float().to(device)


def to_pil(image: Tensor) -> Image.Image:
    """A PIL picture of ``[H, W]`` (mode L), ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA).

    uint8 values are taken as they are, float values 0..1 become 0..255 (rounded, clamped), False and True become 0 and
    255. Raises ValueError for any other shape or dtype and for NaN.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)) or 0 in image.shape:
        raise ValueError(f"a picture is [H, W], [H, W, 3] or [H, W, 4] with at least one pixel, not {_describe(image)}")
    if image.dtype == torch.uint8:
        return Image.fromarray(image.detach().cpu().contiguous().numpy())
    if image.dtype != torch.bool and not image.is_floating_point():
        raise ValueError(f"a picture is made of uint8, bool or float values in 0..1, not {_describe(image)}")
    values = torch.empty(image.shape, dtype=torch.uint8)
    for rows in _bands(*image.shape[:2]):
        band = image[rows].detach().float()
        if band.isnan().any():
            raise ValueError("cannot make a picture of values that are not numbers (NaN)")
        values[rows] = band.clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return Image.fromarray(values.numpy())


def indexed(labels: Tensor) -> Image.Image:
    """A palette picture (mode P) of a label map, uint8 [H, W]: each value is a label's id, shown in its colour."""
    picture = Image.fromarray(labels.cpu().numpy(), mode="P")
    picture.putpalette([value for label in LABELS for value in label.colour])
    return picture


def legend(labels: Sequence[int], width: int) -> Tensor:
    """A strip, uint8 [h, width, 3], that names these labels beside their colours; as high as it needs to be."""
    size = min(max(width // 36, 11), 28)
    font, line = ImageFont.load_default(size), round(1.7 * size)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], size // 2, size // 2
    for label in labels:
        needed = round(ruler.textlength(LABELS[label].title, font)) + 2 * size
        if x > size and x + needed > width:
            x, y = size // 2, y + line
        places.append((x, y, LABELS[label]))
        x += needed
    strip = Image.new("RGB", (width, y + line), (28, 28, 28))
    draw = ImageDraw.Draw(strip)
    for x, y, label in places:
        draw.rectangle((x, y, x + size, y + size), fill=label.colour)
        draw.text((x + 1.4 * size, y + size / 2), label.title, fill=(240, 240, 240), font=font, anchor="lm")
    if not places:
        draw.text((x, y + size / 2), "nothing was found", fill=(240, 240, 240), font=font, anchor="lm")
    return torch.from_numpy(np.array(strip))


def save(image: Tensor | Image.Image, path: str | Path) -> Path:
    """Write an image (a PIL picture, or a tensor as :func:`to_pil` takes it) to ``path``; its suffix names the format.

    The file gets its name only when it is complete, so that an interrupted run leaves the old file or none, never a
    half one. A PNG carries our mark (see :func:`is_ours`). What is there already is replaced: whoever writes for
    somebody else asks first whether it may be. Raises ValueError for an unknown suffix or a picture that the format
    cannot hold, FileNotFoundError for a missing folder and another OSError (PermissionError …) where the file cannot be
    written.
    """
    path = Path(path)
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise ValueError(f"cannot write {path}: its suffix must be that of a picture: .png, .jpg, .webp, .tif …")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    if picture_format == "JPEG" and picture.mode not in ("L", "RGB", "CMYK"):
        raise ValueError(f"cannot write {path}: a JPEG holds no {picture.mode} picture; use .png")
    options: dict = {"quality": 95} if picture_format in ("JPEG", "WEBP") else {}
    if picture_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(*_MARK)

    unfinished = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        with open(unfinished, "xb") as file:
            picture.save(file, format=picture_format, **options)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is None:  # Pillow: this format holds no such picture
            raise ValueError(f"cannot write {path}: {error}") from error
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write the picture: {error.strerror}", str(path)) from error
        raise
    return path


def is_ours(path: str | Path) -> bool:
    """Whether this file is a PNG with our mark: the text chunk ``Software: faceparse``. False if it cannot be read."""
    if not os.path.isfile(path):
        return False
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # whatever a damaged file makes Pillow stumble over: it is not one of ours
        return False


def _load_one(image: object, name: str) -> list[Tensor]:
    if isinstance(image, (str, Path)):
        return [_read_file(Path(image))]
    if isinstance(image, Image.Image):
        with explained(f"{name}, a PIL image, cannot be decoded"):
            image = _upright(image)
        return [_pixels(image, name)]
    if isinstance(image, np.ndarray):
        return _from_tensor(_from_numpy(image, name), name)
    if isinstance(image, Tensor):
        return _from_tensor(image.detach(), name)
    raise ValueError(f"{name} is of type {type(image).__name__}; give {ACCEPTED}")


def _read_file(path: Path) -> Tensor:
    # Unlike those of Path, these are False for what no file can be called.
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, not a picture")
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {said(path)}")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is no file: pipes and devices are not read")  # they may never end
    return _pixels(_opened(path, str(path), f"{path} is not a picture that Pillow can read"), str(path))


def _opened(
    file: Path | io.BytesIO,
    name: str,
    not_known: str,
    formats: tuple[str, ...] | None = None,
    most_pixels: int | None = None,
) -> Image.Image:
    """The decoded, upright picture in a file; ``not_known`` is what is said if it is of none of the formats."""
    try:
        with explained(f"{name} cannot be decoded"), Image.open(file, formats=formats) as picture:
            too_large = most_pixels is not None and picture.width * picture.height > most_pixels
            size = f"{picture.width}x{picture.height}"
            # Decoders raise whatever the damage makes them stumble over.
            picture = picture if too_large else _upright(picture)
    except ValueError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise ValueError(not_known) from error.__cause__
        raise
    if too_large:
        raise ValueError(f"{name} is too large: {size}, and at most {most_pixels:,} pixels are taken")
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """The decoded picture, turned as its EXIF orientation says."""
    if picture.load() is None:
        raise ValueError("it holds no pixels")
    if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def _pixels(picture: Image.Image, name: str) -> Tensor:
    """The pixels [H, W, 3] of a picture, converted in bands: Pillow would make a whole second picture to convert it."""
    if 0 in picture.size:
        raise ValueError(f"{name} has no pixels: its size is {picture.width}x{picture.height}")
    width, height = picture.size

    convert: Callable[[Image.Image], np.ndarray]
    if picture.mode == "F":
        return _from_tensor(_from_numpy(np.asarray(picture), name), name)[0]
    if picture.mode.startswith("I"):
        _check_16_bit(picture, name)
        channels, convert = 1, _upper_8_bits
    elif picture.mode in ("1", "L", "LA"):
        channels, convert = 1, lambda band: np.asarray(band.convert("L"))
    elif picture.mode in ("P", "PA"):
        # By way of RGBA: a transparent palette colour keeps its colour, and Pillow has nothing to warn about.
        channels, convert = 3, lambda band: np.asarray(band.convert("RGBA").convert("RGB"))
    elif picture.mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"):
        channels, convert = 3, lambda band: np.asarray(band.convert("RGB"))
    else:
        raise ValueError(f"{name} is a PIL image of mode {picture.mode}; convert it to RGB first")

    pixels = np.empty((height, width, channels), dtype=np.uint8)
    for rows in _bands(height, width):
        band = picture.crop((0, rows.start, width, rows.stop))
        pixels[rows] = convert(band).reshape(-1, width, channels)
    return torch.from_numpy(pixels).expand(-1, -1, 3)


def _check_16_bit(picture: Image.Image, name: str) -> None:
    if picture.mode != "I":
        return
    # Pillow reads some 16-bit files into 32 bits.
    low, high = (int(bound) for bound in np.ravel(picture.getextrema()))
    if low < 0 or high > 65535:
        raise ValueError(f"{name} has 32-bit values {low}..{high}; whole numbers up to 65535 (16 bits) are accepted")


def _upper_8_bits(values: Image.Image | np.ndarray) -> np.ndarray:
    """16 to 8 bits, as Pillow itself does with 16-bit colours: what was 8 bits once comes back unchanged."""
    return np.asarray(np.asarray(values) >> 8, dtype=np.uint8)  # an array, of a single value too


def _from_numpy(array: np.ndarray, name: str) -> Tensor:
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return torch.from_numpy(_upper_8_bits(array))
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"{name} is {_describe(array)}; give {ACCEPTED}")
    if array.dtype.kind == "f" and (array.dtype.itemsize > 4 or not array.dtype.isnative):
        array = array.astype(np.float32)
    if any(stride < 0 for stride in array.strides):  # torch takes no mirrored views
        array = array.copy()
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Unlocked(array)))


class _Unlocked:
    """A read-only array, such as that of a PIL picture, as one that torch takes without a warning: a copy
    of a large picture costs as much as what is done with it."""

    def __init__(self, array: np.ndarray):
        self._array = array  # keeps the memory
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _from_tensor(tensor: Tensor, name: str) -> list[Tensor]:
    """The images of a tensor [H, W], [H, W, C] or [B, H, W, C], checked."""
    given = f"{name} is {_describe(tensor)}"
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{given}: it must lie in memory, dense; give {ACCEPTED}")
    if tensor.dtype == torch.uint16:
        tensor = torch.from_numpy(_upper_8_bits(tensor.cpu().numpy()))
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise ValueError(f"{given}; give {ACCEPTED}")
    if tensor.ndim not in (2, 3, 4):
        raise ValueError(f"{given}: it has {tensor.ndim} dimensions; give {ACCEPTED}")
    if 0 in tensor.shape:
        raise ValueError(f"{given}: it is empty; give at least one image of at least one pixel")
    if tensor.ndim == 2:
        tensor = tensor[..., None]
    if tensor.shape[-1] not in (1, 3, 4):
        permute = "image.permute(1, 2, 0)" if tensor.ndim == 3 else "images.permute(0, 2, 3, 1)"
        hint = f"; its channels come first: give {permute}" if tensor.shape[-3] in (1, 3, 4) else ""
        raise ValueError(f"{given}: the last dimension must be the channels, 1, 3 or 4{hint}")
    if tensor.is_floating_point():
        tensor = _in_range(tensor.float(), given)
    tensor = tensor[..., :3].expand(*tensor.shape[:-1], 3)
    return list(tensor) if tensor.ndim == 4 else [tensor]


def _in_range(tensor: Tensor, given: str) -> Tensor:
    # NaN travels through min and max, so that one pass without a temporary finds everything.
    low, high = (bound.item() for bound in torch.aminmax(tensor))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{given}: it holds NaN or infinite values; every value must be a number in 0..1")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        hint = "divide it by 255, or give uint8" if low >= 0 else "scale it to 0..1"
        raise ValueError(f"{given}: its values are {low:.4g}..{high:.4g}, and float images are in 0..1; {hint}")
    return tensor.clamp(0, 1) if low < 0 or high > 1 else tensor


def _bands(height: int, width: int) -> list[slice]:
    """Slices of rows that cover ``height`` rows, each of about ``_BAND_PIXELS`` pixels."""
    rows = max(1, _BAND_PIXELS // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _describe(values: Tensor | np.ndarray) -> str:
    kind = "a tensor" if isinstance(values, Tensor) else "an array"
    return f"{kind} {list(values.shape)} of {str(values.dtype).removeprefix('torch.')}"
