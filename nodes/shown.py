"""What nodes show of their results: small pictures and label maps, made in a few milliseconds."""

from __future__ import annotations

import weakref

import torch
from comfy_api.latest import ui
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core.labels import LABELS
from faceparse_core.parsing import Parsing

from . import host

_PICTURE = 512  # the longest side of what is shown on a node, in pixels
_MENU = 1024  # and of the picture whose parts can be clicked
_AT_MOST = 4  # images of a batch that are shown
_OPACITY = 0.6
_COLOURS = torch.tensor([label.colour for label in LABELS], dtype=torch.float32)

# The picture of a parsing, small: so that Select Labels, which gets the parsing alone, can show it.
_pictures: weakref.WeakKeyDictionary[Parsing, Tensor] = weakref.WeakKeyDictionary()
_files: weakref.WeakKeyDictionary[Parsing, dict] = weakref.WeakKeyDictionary()


def shown(images: Tensor) -> ui.SavedImages:
    """Images [B, H, W, C] or masks [B, H, W] as what a node shows; what is transparent stands on grey."""
    if images.ndim == 3:
        images = images[..., None].expand(-1, -1, -1, 3)
    small = [_small(image, _PICTURE if len(images) == 1 else _PICTURE // 2) for image in images[:_AT_MOST]]
    return ui.SavedImages([host.save_picture(_opaque(image)) for image in small])


def shown_parsing(parsing: Parsing, image: Tensor) -> ui.SavedImages:
    """The parts in their colours over the image, as what a node shows; and its picture is kept for ``menu``."""
    _pictures[parsing] = _bytes(_small(image[0, ..., :3], _MENU))
    labels = parsing[0].small_labels(_PICTURE)[0].long()
    picture = pictures.resize(_pictures[parsing], (labels.shape[0], labels.shape[1]))
    colours = _COLOURS[labels]
    over = torch.where((labels > 0)[..., None], picture + (colours - picture) * _OPACITY, picture.float())
    return ui.SavedImages([host.save_picture(over.to(torch.uint8))])


def menu(parsing: Parsing) -> dict:
    """What the editor's script needs to let people click on the parts of the first image.

    The label map as runs, [label, length, label, length …] row by row: a picture read back from a canvas is not exact
    in every browser.
    """
    labels = parsing[0].small_labels(_MENU)[0]
    height, width = labels.shape
    values, lengths = torch.unique_consecutive(labels.flatten(), return_counts=True)
    runs = torch.stack([values.long(), lengths], dim=1).flatten().tolist()
    picture = _pictures.get(parsing)
    if picture is not None and parsing not in _files:
        _files[parsing] = host.save_picture(picture)
    return {"width": width, "height": height, "runs": runs, "picture": _files.get(parsing)}


def _small(image: Tensor, longest: int) -> Tensor:
    """Every so manieth pixel of an image [H, W] or [H, W, C], so that no side is longer: quick, whatever its size."""
    step = -(-max(image.shape[:2]) // longest)
    return image[::step, ::step]


def _opaque(image: Tensor) -> Tensor:
    """uint8 [H, W, 3] of an image [H, W, 3 or 4] in 0..1."""
    if image.shape[-1] == 4:
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + (1 - alpha) * 0.35
    return _bytes(image)


def _bytes(image: Tensor) -> Tensor:
    return image.mul(255).round().clamp(0, 255).to("cpu", torch.uint8)
