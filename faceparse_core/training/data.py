"""Labelled portraits in memory, and the batches that training draws from them.

A folder of data holds ``images/NAME.jpg``, ``masks/NAME.png`` (grey, the value is the label's id) and lists of names
such as ``train.txt`` and ``val.txt``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from faceparse_core.labels import NUM_LABELS, PAIRS

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied. Shares are of the pictures in a batch, ranges are uniform.

    ``scenes`` is the share of pictures in which the face does not fill the frame: one or several portraits, each
    between ``scene_scale`` of the frame, over a background picture. ``empty`` is the share without any face.
    """

    mirror: float = 0.5
    rotation: float = 20.0
    strong_tilt: float = 0.1
    strong_rotation: float = 75.0
    zoom: tuple[float, float] = (0.8, 1.6)
    stretch: float = 0.1
    shift: float = 0.12
    scenes: float = 0.35
    scene_scale: tuple[float, float] = (0.2, 0.9)
    empty: float = 0.05
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    tint: float = 0.08
    grey: float = 0.04
    degrade: float = 0.15


# The published SegFormer recipe: portraits as they are, mirrored, with colour jitter.
PLAIN = Augmentation(
    rotation=0.0,
    strong_tilt=0.0,
    zoom=(1.0, 1.0),
    stretch=0.0,
    shift=0.0,
    scenes=0.0,
    empty=0.0,
    tint=0.0,
    grey=0.0,
    degrade=0.0,
)


def read_names(data: Path, split: str) -> list[str]:
    """The names in ``DATA/SPLIT.txt``, one a line."""
    path = Path(data) / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a data folder needs images/, masks/ and a list of names, {split}.txt"
        )
    names = path.read_text().split()
    if not names:
        raise ValueError(f"{path} is empty: it must list one name a line")
    return names


def read_pair(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 [H, W, 3], and mask, uint8 [H, W], of one name."""
    mask_path = Path(data) / "masks" / f"{name}.png"
    found = [p for s in PICTURE_SUFFIXES if (p := Path(data) / "images" / f"{name}{s}").is_file()]
    if not found or not mask_path.is_file():
        raise FileNotFoundError(f"{data}: '{name}' needs both images/{name}.jpg and masks/{name}.png")
    image = np.array(Image.open(found[0]).convert("RGB"))
    mask = np.array(Image.open(mask_path))
    if mask.ndim != 2 or mask.shape != image.shape[:2]:
        raise ValueError(f"{mask_path} must be grey and of its image's size {image.shape[:2]}, not {mask.shape}")
    if mask.max() >= NUM_LABELS:
        raise ValueError(f"{mask_path} holds the value {mask.max()}: label ids go from 0 to {NUM_LABELS - 1}")
    return image, mask


@dataclass
class Portraits:
    """All portraits of a split at one square size, as pyramids of halved sizes so that small faces are not aliased."""

    images: list[Tensor]  # one tensor a level, uint8 [N, 3, S / 2^level, S / 2^level]
    masks: Tensor  # uint8 [N, S, S]
    backgrounds: list[Tensor] = field(default_factory=list)  # uint8 [3, h, w], pictures without people

    @classmethod
    def read(cls, data: Path, split: str, size: int = 512, backgrounds: Path | None = None) -> Portraits:
        names = read_names(data, split)
        images = torch.empty(len(names), 3, size, size, dtype=torch.uint8)
        masks = torch.empty(len(names), size, size, dtype=torch.uint8)
        for i, name in enumerate(tqdm(names, desc=f"reading {split}", unit="image", leave=False)):
            image, mask = read_pair(data, name)
            if mask.shape != (size, size):
                image = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
                mask = np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
            images[i] = torch.from_numpy(image).permute(2, 0, 1)
            masks[i] = torch.from_numpy(mask)
        return cls(_pyramid(images), masks, _read_backgrounds(backgrounds, size))

    def frequencies(self) -> Tensor:
        """The share of pixels of each label, float32 [19]."""
        counts = torch.zeros(NUM_LABELS)
        for mask in self.masks:
            counts += torch.bincount(mask.flatten(), minlength=NUM_LABELS)
        return counts / counts.sum()

    def presence(self) -> Tensor:
        """Whether a label is in a picture, bool [N, 19]."""
        return torch.stack([torch.bincount(m.flatten(), minlength=NUM_LABELS) > 0 for m in self.masks])


def _pyramid(images: Tensor, levels: int = 3) -> list[Tensor]:
    pyramid = [images]
    for _ in range(levels - 1):
        last = pyramid[-1]
        smaller = torch.empty(*last.shape[:2], last.shape[2] // 2, last.shape[3] // 2, dtype=torch.uint8)
        for i, image in enumerate(last):
            smaller[i] = F.avg_pool2d(image.float(), 2).round().to(torch.uint8)
        pyramid.append(smaller)
    return pyramid


def _read_backgrounds(folder: Path | None, size: int) -> list[Tensor]:
    if folder is None:
        return []
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    pictures = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((size, size))
        pictures.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    return pictures


class Batches(torch.utils.data.Dataset):
    """Item ``step`` is a whole batch, a function of the seed and the step alone, so that a resumed run goes on exactly.

    An item is ``(pixels, labels)``: float32 [B, 3, S, S] in 0..1 and uint8 [B, S, S], S being the size at that step.
    """

    def __init__(
        self, portraits: Portraits, sizes, batch_size: int, augmentation: Augmentation, weights: Tensor, seed: int
    ):
        self.portraits, self.sizes, self.batch_size = portraits, sizes, batch_size
        self.augmentation, self.weights, self.seed = augmentation, weights, seed

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[step]
        draw = _Painter(self.portraits, self.augmentation, self.weights, rng, size)
        pixels = torch.empty(self.batch_size, 3, size, size)
        labels = torch.empty(self.batch_size, size, size, dtype=torch.uint8)
        for i in range(self.batch_size):
            pixels[i], labels[i] = draw.picture()
        return pixels, labels


class _Painter:
    """Paints one training picture after another: a background, then portraits placed on it, then the colours varied."""

    def __init__(self, portraits, augmentation, weights, rng, size):
        self.portraits, self.a, self.rng, self.size = portraits, augmentation, rng, size
        self.weights = weights.numpy().astype(np.float64)
        self.weights /= self.weights.sum()

    def picture(self) -> tuple[Tensor, Tensor]:
        kind = self.rng.random()
        pixels, labels = self._background(), torch.zeros(self.size, self.size, dtype=torch.uint8)
        if kind >= self.a.empty + self.a.scenes:
            zoom = self._uniform(*self.a.zoom)
            self._place(
                pixels,
                labels,
                zoom,
                self._uniform(-1, 1, 2) * self.a.shift * max(1.0, zoom),
                cut_out=self._chance(0.15),
            )
        elif kind >= self.a.empty:
            for _ in range(self.rng.choice([1, 2, 3, 4], p=[0.5, 0.25, 0.15, 0.1])):
                zoom = math.exp(self._uniform(*np.log(self.a.scene_scale)))
                room = max(0.1, 1 - 0.7 * zoom)
                self._place(pixels, labels, zoom, self._uniform(-1, 1, 2) * room, cut_out=self._chance(0.5))
        return self._colours(pixels), labels

    def _place(self, pixels: Tensor, labels: Tensor, zoom: float, centre: np.ndarray, cut_out: bool) -> None:
        """Draw a random portrait over the picture: ``zoom`` is its side over the frame's, ``centre`` in -1..1."""
        index = int(self.rng.choice(len(self.weights), p=self.weights))
        mirror = self._chance(self.a.mirror)
        strong = self._chance(self.a.strong_tilt)
        angle = math.radians(self._uniform(-1, 1) * (self.a.strong_rotation if strong else self.a.rotation))
        stretch = math.exp(self._uniform(-1, 1) * self.a.stretch)
        # From the frame's coordinates (-1..1) to the portrait's: undo shift, rotation, scale and mirroring.
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos, sin], [-sin, cos]]) / zoom * np.array([[stretch], [1 / stretch]])
        if mirror:
            matrix[0] *= -1
        theta = torch.tensor(np.column_stack([matrix, -matrix @ centre]), dtype=torch.float32)
        grid = F.affine_grid(theta[None], (1, 3, self.size, self.size), align_corners=False)

        full = self.portraits.images[0].shape[-1]
        level = int(np.clip(round(math.log2(full / (self.size * zoom))), 0, len(self.portraits.images) - 1))
        image = self.portraits.images[level][index][None].float()
        mask = self.portraits.masks[index][None, None].float()
        image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)[0]
        mask = F.grid_sample(mask, grid, mode="nearest", align_corners=False)[0, 0].to(torch.uint8)
        if mirror:
            mask = exchange_sides(mask)
        inside = (grid[0].abs() < 1).all(-1)
        if cut_out and self.portraits.backgrounds:
            inside &= mask > 0
        pixels.copy_(torch.where(inside, image, pixels))
        labels.copy_(torch.where(inside, mask, labels))

    def _background(self) -> Tensor:
        """A piece of a picture without people, or a plain or noisy field, float32 [3, S, S] in 0..255."""
        if not self.portraits.backgrounds or self._chance(0.2):
            field = torch.from_numpy(self.rng.uniform(0, 255, (1, 3, 1, 1)).astype(np.float32))
            cells = int(self.rng.choice([1, 2, 4, 16, self.size]))
            noise = torch.from_numpy(self.rng.normal(0, 40, (1, 3, cells, cells)).astype(np.float32))
            return (field + F.interpolate(noise, size=(self.size, self.size), mode="bilinear"))[0].clamp(0, 255)
        picture = self.portraits.backgrounds[self.rng.integers(len(self.portraits.backgrounds))]
        side = min(picture.shape[1:])
        side = max(16, int(side * self._uniform(0.4, 1.0)))
        top, left = (int(self.rng.integers(n - side + 1)) for n in picture.shape[1:])
        crop = picture[None, :, top : top + side, left : left + side].float()
        if self._chance(0.5):
            crop = crop.flip(-1)
        return F.interpolate(crop, size=(self.size, self.size), mode="bilinear", antialias=side > self.size)[0]

    def _colours(self, pixels: Tensor) -> Tensor:
        a = self.a
        x = pixels / 255
        if a.degrade and self._chance(a.degrade):  # a smaller or noisier original
            if self._chance(0.5):
                low = int(self.size * self._uniform(0.3, 0.8))
                x = F.interpolate(x[None], size=(low, low), mode="bilinear", antialias=True)
                x = F.interpolate(x, size=(self.size, self.size), mode="bilinear")[0]
            else:
                noise = self.rng.standard_normal((3, self.size, self.size), dtype=np.float32)
                x = x + torch.from_numpy(noise) * self._uniform(0.01, 0.06)
        grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        saturation = 0.0 if a.grey and self._chance(a.grey) else 1 + self._uniform(-1, 1) * a.saturation
        x = grey + (x - grey) * saturation
        mean = grey.mean()
        x = mean + (x - mean) * (1 + self._uniform(-1, 1) * a.contrast)
        x = x * (1 + self._uniform(-1, 1) * a.brightness)
        if a.tint:
            x = x * torch.from_numpy(self.rng.uniform(1 - a.tint, 1 + a.tint, (3, 1, 1)).astype(np.float32))
        return x.clamp(0, 1)

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _uniform(self, low, high, size=None):
        return self.rng.uniform(low, high, size)


def exchange_sides(mask: Tensor) -> Tensor:
    """``mask`` (uint8, any shape) with the ids of each left/right pair exchanged, as mirroring a picture asks for."""
    return _EXCHANGED[mask.long()]


_EXCHANGED = torch.arange(NUM_LABELS, dtype=torch.uint8)
for _a, _b in PAIRS:
    _EXCHANGED[_a], _EXCHANGED[_b] = _b, _a
