"""Public data sets, as they are downloaded, brought into our layout: images/, masks/, train.txt, val.txt, test.txt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceparse_core.labels import LABELS, PAIRS
from faceparse_core.training.data import PICTURE_SUFFIXES, UNTOLD

_PARTS = [label.name for label in LABELS[1:]]
# CelebA's official partition goes by the number of the picture there: up to here train, then val, then test.
_LAST_TRAIN, _LAST_VAL = 162770, 182637
# LaPa's labels in ours. Its background may be an ear, a hat, a neck, clothing: nothing is told of it.
_LAPA = {1: "skin", 2: "l_brow", 3: "r_brow", 4: "l_eye", 5: "r_eye", 6: "nose", 7: "u_lip", 8: "mouth", 9: "l_lip",
         10: "hair"}  # fmt: skip


def convert(kind: str, source: Path, out: Path, size: int = 512) -> dict[str, int]:
    """Writes the data set ``kind`` (see ``KINDS``) from its download into ``out``; how many pictures by split.

    Pictures are brought to at most ``size`` pixels on their longer side. What was written before is not written again.
    Raises ``FileNotFoundError`` where the download is not as it is published, ``ValueError`` for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown data set '{kind}': choose one of {', '.join(KINDS)}")
    source, out = Path(source), Path(out)
    for part in ("images", "masks"):
        (out / part).mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {}
    for split, name, picture, labels in tqdm(KINDS[kind](source), unit="image", disable=None, leave=False):
        names.setdefault(split, []).append(name)
        mask_path = out / "masks" / f"{name}.png"
        if mask_path.exists():
            continue
        image = Image.open(picture).convert("RGB")
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        mask = Image.fromarray(subjects_sides(labels())).resize(image.size, Image.Resampling.NEAREST)
        image.save(out / "images" / f"{name}.jpg", quality=95)
        mask.save(mask_path, optimize=True)  # last: a picture with a mask is done
    if not names:
        raise FileNotFoundError(f"{source} holds no pictures of {kind}")
    for split, some in names.items():
        (out / f"{split}.txt").write_text("\n".join(sorted(some)) + "\n")
    return {split: len(some) for split, some in names.items()}


Item = tuple[str, str, Path, Callable[[], np.ndarray]]
"""Split, name, the picture's path, and what gives its mask, uint8 [H, W]."""


def _celebamask_hq(source: Path) -> Iterator[Item]:
    """CelebAMask-HQ (Lee et al., CVPR 2020): 30,000 portraits, each with a file for every part that it has."""
    images, parts = source / "CelebA-HQ-img", source / "CelebAMask-HQ-mask-anno"
    mapping = source / "CelebA-HQ-to-CelebA-mapping.txt"
    for path in (images, parts, mapping):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: give the folder of the unpacked CelebAMask-HQ.zip, with CelebA-HQ-img/, "
                "CelebAMask-HQ-mask-anno/ and CelebA-HQ-to-CelebA-mapping.txt"
            )
    for line in mapping.read_text().splitlines()[1:]:
        if not line.strip():
            continue
        number, original = (int(word) for word in line.split()[:2])
        split = "train" if original <= _LAST_TRAIN else "val" if original <= _LAST_VAL else "test"
        picture, folder = images / f"{number}.jpg", parts / str(number // 2000)
        if not picture.is_file():
            raise FileNotFoundError(f"{picture} is missing, which {mapping.name} names: is the download whole?")

        def labels(folder: Path = folder, number: int = number) -> np.ndarray:
            mask = None
            for label, part in enumerate(_PARTS, start=1):  # later ones lie over earlier ones
                path = folder / f"{number:05d}_{part}.png"
                if path.is_file():
                    there = np.asarray(Image.open(path).convert("L")) > 127
                    mask = np.zeros(there.shape, np.uint8) if mask is None else mask
                    mask[there] = label
            if mask is None:
                raise FileNotFoundError(f"{folder} holds no part of picture {number}: is the download whole?")
            return mask

        yield split, f"{number:05d}", picture, labels


def _translated(path: Path, table: np.ndarray) -> np.ndarray:
    """The mask in a file, uint8 [H, W], its ids looked up in a table of 256."""
    return table[np.asarray(Image.open(path))]


def _lapa(source: Path) -> Iterator[Item]:
    """LaPa (Liu et al., AAAI 2020): 22,000 faces in all poses and lights, 11 classes."""
    table = np.full(256, UNTOLD, np.uint8)
    ids = {label.name: label.id for label in LABELS}
    for theirs, name in _LAPA.items():
        table[theirs] = ids[name]
    for split in ("train", "val", "test"):
        images, labels = source / split / "images", source / split / "labels"
        if not images.is_dir() or not labels.is_dir():
            raise FileNotFoundError(f"{source / split} must hold images/ and labels/, as LaPa is published")
        for picture in sorted(path for path in images.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES):
            path = labels / f"{picture.stem}.png"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, the labels of {picture}: is the download whole?")
            yield split, picture.stem, picture, partial(_translated, path, table)


KINDS: dict[str, Callable[[Path], Iterator[Item]]] = {"celebamask-hq": _celebamask_hq, "lapa": _lapa}


def subjects_sides(mask: np.ndarray) -> np.ndarray:
    """``mask`` (uint8 [H, W]) with left and right as the subject's, who looks at us: left ids lie at the right.

    Some pictures of CelebAMask-HQ were mirrored without exchanging the ids. What the pairs say in majority counts.
    """
    votes = 0
    for left, right in PAIRS:
        columns = [np.nonzero(mask == label)[1] for label in (left, right)]
        if min(map(len, columns)):
            votes += 1 if columns[0].mean() < columns[1].mean() else -1
    if votes <= 0:
        return mask
    mended = mask.copy()
    for left, right in PAIRS:
        mended[mask == left], mended[mask == right] = right, left
    return mended
