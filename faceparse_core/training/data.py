"""Folders of labelled pictures, and the batches that training draws from them.

A folder of data holds ``images/NAME.jpg``, ``masks/NAME.png`` (grey, the value is the label's id, 255 where nothing is
told) and lists of names such as ``train.txt`` and ``val.txt``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from faceparse_core.labels import LABELS, NUM_LABELS, region_ids
from faceparse_core.training.painting import Augmentation, Painter

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNTOLD = 255
"""The value of pixels in masks of which nothing is told."""
NOT_HAIR = 254
"""In memory alone: whatever it is, it is not hair."""

_HAIR = region_ids("hair")[0]
_RARE = {"eye_g": 1.5, "hat": 1.5, "ear_r": 0.5, "neck_l": 2.0}


@dataclass(frozen=True)
class Source:
    """A folder of data and what it is good for.

    ``share``: how many of the pictures in a batch come from it, over the sum of all shares. ``told``: ``"all"``, or
    ``"hair"``, where a mask tells hair (13) from what is not hair (0) and nothing else. ``framing``: ``"face"`` for
    portraits that one face fills, which are placed at all scales; ``"picture"`` for anything else, of which the whole
    is shown, or the part around a head.
    """

    folder: str
    share: float = 1.0
    told: str = "all"
    framing: str = "face"

    def __post_init__(self):
        if not self.share > 0:
            raise ValueError(f"{self.folder}: the share must be more than 0, not {self.share}")
        if self.told not in ("all", "hair"):
            raise ValueError(f"{self.folder}: told must be 'all' or 'hair', not {self.told!r}")
        if self.framing not in ("face", "picture"):
            raise ValueError(f"{self.folder}: framing must be 'face' or 'picture', not {self.framing!r}")

    def comparable(self, labels: Tensor) -> Tensor:
        """Parsed labels, ids of any shape, as the masks of this source have them: hair or nothing, if that is told."""
        return torch.where(labels == _HAIR, labels, 0) if self.told == "hair" else labels

    @classmethod
    def parse(cls, text: str) -> Source:
        """From ``FOLDER[,share=0.2][,told=hair][,framing=picture]``. Raises ``ValueError`` for anything else."""
        folder, *options = str(text).split(",")
        known = [field.name for field in fields(cls)][1:]
        given = dict(option.partition("=")[::2] for option in options)
        if not folder or not set(given) <= set(known):
            raise ValueError(f"{text!r} is not of the form FOLDER[,share=0.2][,told=hair][,framing=picture]")
        try:
            share = float(given.pop("share", 1.0))
        except ValueError as error:
            raise ValueError(f"{text!r}: the share must be a number") from error
        return cls(folder, share, **given)


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
    """Image, uint8 [H, W, 3], and mask, uint8 [H, W] with ids and ``UNTOLD``, of one name."""
    mask_path = Path(data) / "masks" / f"{name}.png"
    found = [p for s in PICTURE_SUFFIXES if (p := Path(data) / "images" / f"{name}{s}").is_file()]
    if not found or not mask_path.is_file():
        raise FileNotFoundError(f"{data}: '{name}' needs both images/{name}.jpg and masks/{name}.png")
    image = np.array(Image.open(found[0]).convert("RGB"))
    mask = np.array(Image.open(mask_path))
    if mask.ndim != 2 or mask.shape != image.shape[:2]:
        raise ValueError(f"{mask_path} must be grey and of its image's size {image.shape[:2]}, not {mask.shape}")
    wrong = mask[(mask >= NUM_LABELS) & (mask != UNTOLD)]
    if len(wrong):
        raise ValueError(
            f"{mask_path} holds the value {wrong[0]}: label ids go from 0 to {NUM_LABELS - 1}, {UNTOLD} is not told"
        )
    return image, mask


class Labelled:
    """A split of a source. Pictures are read when they are asked for: that takes a hundredth of a step's time."""

    def __init__(self, source: Source, split: str):
        self.source, self.folder = source, Path(source.folder)
        self.names = read_names(self.folder, split)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Picture, RGB, and mask, grey: ids, ``UNTOLD`` and, where only hair is told, ``NOT_HAIR``."""
        image, mask = read_pair(self.folder, self.names[index])
        if self.source.told == "hair":
            mask = np.where((mask == _HAIR) | (mask == UNTOLD), mask, NOT_HAIR).astype(np.uint8)
        return Image.fromarray(image), Image.fromarray(mask)

    def counts(self) -> Tensor:
        """Pixels of each label in each picture, int64 [N, 19]; every picture is read once for it."""
        counts = torch.zeros(len(self), NUM_LABELS, dtype=torch.int64)
        for index in tqdm(range(len(self)), desc=f"reading {self.folder.name}", unit="image", leave=False):
            _, mask = read_pair(self.folder, self.names[index])
            counts[index] = torch.bincount(torch.from_numpy(mask).flatten(), minlength=256)[:NUM_LABELS]
        return counts


def frequencies(counts: Tensor) -> Tensor:
    """The share of pixels of each label, float32 [19], of counts [N, 19]."""
    return counts.sum(0) / counts.sum()


def drawing_weights(counts: Tensor, rare_labels: float) -> Tensor:
    """How often each picture is drawn, [N]: those with accessories ``rare_labels`` times more often than others."""
    ids = [label.id for label in LABELS if label.name in _RARE]
    scarcity = torch.tensor([_RARE[LABELS[i].name] for i in ids])
    return 1 + rare_labels * ((counts[:, ids] > 0).float() * scarcity).sum(1).clamp(max=2.5)


def read_backgrounds(folder: Path | None, size: int = 640) -> list[Image.Image]:
    """The pictures in a folder, not larger than ``size``; ``[]`` without one."""
    if folder is None:
        return []
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    pictures = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((size, size))
        pictures.append(picture)
    return pictures


class Batches(torch.utils.data.Dataset):
    """Item ``step`` is a whole batch, a function of the seed and the step alone, so that a resumed run goes on exactly.

    An item is ``(pixels, labels)``: float32 [B, 3, S, S] in 0..1 and uint8 [B, S, S], S being the size at that step;
    labels may be ``UNTOLD`` and ``NOT_HAIR``. ``weights``: of each set, how often each of its pictures is drawn.
    ``label_stride``: of the labels every so many-th in every so many-th row: with 2 the loss costs a quarter, and its
    edges are half a pixel off to all sides alike.
    """

    def __init__(
        self,
        sets: list[Labelled],
        sizes: list[int],
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        weights: list[Tensor] | None = None,
        backgrounds: list[Image.Image] | None = None,
        label_stride: int = 1,
    ):
        self.sets, self.sizes, self.batch_size, self.seed = sets, sizes, batch_size, seed
        self.augmentation, self.backgrounds, self.label_stride = augmentation, backgrounds or [], label_stride
        weights = weights or [torch.ones(len(one)) for one in sets]
        self.chances = [(w.double() / w.double().sum()).numpy() for w in weights]
        shares = np.array([one.source.share for one in sets], dtype=float)
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[step]
        painter = Painter(self.augmentation, rng, size, self._draw, self.backgrounds)
        pixels = np.empty((self.batch_size, size, size, 3), np.float32)
        labels = np.empty((self.batch_size, size, size), np.uint8)
        for i in range(self.batch_size):
            pixels[i], labels[i] = painter.picture(self.sets[rng.choice(len(self.sets), p=self.shares)].source.framing)
        down, across = rng.integers(self.label_stride, size=2)
        labels = np.ascontiguousarray(labels[:, down :: self.label_stride, across :: self.label_stride])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def _draw(self, rng: np.random.Generator, framing: str) -> tuple[Image.Image, Image.Image]:
        """A picture and mask of the sets with this framing, each set by its share, each picture by its weight."""
        of_kind = [i for i, one in enumerate(self.sets) if one.source.framing == framing]
        shares = self.shares[of_kind]
        number = of_kind[rng.choice(len(of_kind), p=shares / shares.sum())]
        return self.sets[number].read(int(rng.choice(len(self.sets[number]), p=self.chances[number])))
