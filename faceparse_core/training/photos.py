"""Photos with marked faces, in memory.

A folder of data holds folders as the project's data tools lay them out, each as far as it is there:

``portraits``  labelled portraits (see ``training.data``); boxes and marks come from the labels
``frames``     ``images/`` and ``faces.json``, of each picture a box and five marks
``masked``     ``images/`` and ``boxes.json``, of each picture boxes; every second picture is kept back
``street``, ``hair``  ``images/``, ``train.txt``; ``extra-faces.json`` beside them has their boxes, scores and marks
``backgrounds``  pictures without people

A box goes from forehead to chin, without hair and ears, as the labels of a face do; the boxes of other sources, which
are each a little smaller in their own way, are brought to that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceparse_core.labels import GROUPS, region_ids
from faceparse_core.models.finder import MARKS
from faceparse_core.training.data import PICTURE_SUFFIXES, read_names

# By how much of its width and height a source's box is to grow at its left and right, top, bottom. Measured on upright
# faces against the distance from the eyes to the mouth.
_FRAMES, _DETECTED, _MASKED = (0.0, 0.1, 0.05), (0.02, 0.075, 0.07), (0.0, 0.13, 0.03)
_SURE = 0.98  # a detector's score below which a face is doubtful
_EYES, _NOSE, _MOUTH = (region_ids("right eye"), region_ids("left eye")), region_ids("nose"), region_ids("lips + mouth")


@dataclass
class Photo:
    """A picture with its faces: boxes [n, 4] as centre x, y, width, height, and marks [n, 5, 2], NaN where unknown.

    ``known``: bool [n]; what is not may be a face or not. ``person``: where it can be cut out, the cut. ``bare``: the
    lower half of the faces can be seen, and may be covered.
    """

    picture: Image.Image
    boxes: np.ndarray
    marks: np.ndarray
    known: np.ndarray
    person: Image.Image | None = None
    bare: bool = True


@dataclass
class Photos:
    """All photos of a folder of data, by source, and pictures without people."""

    sources: dict[str, list[Photo]]
    backgrounds: list[Image.Image] = field(default_factory=list)

    @classmethod
    def read(cls, data: Path, portrait_side: int = 256, longest: int = 512) -> Photos:
        """What there is under ``data``; raises ``FileNotFoundError`` if no source of faces is."""
        data = Path(data)
        readers = {"portraits": _read_portraits, "frames": _read_frames, "masked": _read_masked}
        sources = {}
        for name, reader in readers.items():
            if (data / name).is_dir():
                sources[name] = reader(data / name, portrait_side if name == "portraits" else longest)
        if (data / "extra-faces.json").is_file():
            rows = json.loads((data / "extra-faces.json").read_text())
            for name in ("street", "hair"):
                if (data / name).is_dir():
                    sources[name] = _read_detected(data / name, rows, longest)
        if not sources:
            raise FileNotFoundError(f"{data} holds none of the folders portraits, frames, masked, street, hair")
        if "hair" in sources:  # heads from behind
            sources["turned away"] = [photo for photo in sources["hair"] if not len(photo.boxes)]
        sources = {
            name: [p for p in photos if name == "turned away" or p.known.any()] for name, photos in sources.items()
        }
        backgrounds = []
        if (data / "backgrounds").is_dir():
            for path in sorted((data / "backgrounds").iterdir()):
                if path.suffix.lower() in PICTURE_SUFFIXES:
                    backgrounds.append(_opened(path, longest)[0])
        return cls({name: photos for name, photos in sources.items() if photos}, backgrounds)


def held_back(names: Sequence[str]) -> list[str]:
    """Every second of the pictures of ``masked``, which no training sees."""
    return sorted(names)[1::2]


def _opened(path: Path, longest: int) -> tuple[Image.Image, float]:
    """A picture of at most that longest side, and its scale."""
    picture = Image.open(path)
    before = max(picture.size)
    picture.draft("RGB", (longest, longest))
    picture = picture.convert("RGB")
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture, max(picture.size) / before


def _read_portraits(folder: Path, side: int) -> list[Photo]:
    photos = []
    for name in tqdm(read_names(folder, "train"), desc="portraits", unit="image", mininterval=5):
        mask = np.array(Image.open(folder / "masks" / f"{name}.png"))
        face = face_of_labels(mask)
        if face is None:
            continue
        picture, _ = _opened(folder / "images" / f"{name}.jpg", side)
        scale = picture.width / mask.shape[1]
        person = Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BOX)
        box, marks = (values[None] * scale for values in face)
        photos.append(Photo(picture, box, marks, np.ones(1, bool), person))
    return photos


def face_of_labels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Box [4] (centre x, y, width, height) and marks [5, 2] of the one face in labels, uint8 [H, W]; or None."""

    def points(labels: Sequence[int]) -> np.ndarray:
        return np.argwhere(np.isin(mask, labels))[:, ::-1].astype(np.float32)

    face = points(list(GROUPS["face"]))
    if len(face) < 100:
        return None
    low, high = face.min(0), face.max(0) + 1
    box = np.concatenate([(low + high) / 2, high - low]).astype(np.float32)
    marks = np.full((MARKS, 2), np.nan, np.float32)
    for number, labels in enumerate(_EYES):
        eye = points(labels)
        if len(eye) > 20:
            marks[number] = eye.mean(0)
    nose, mouth = points(_NOSE), points(_MOUTH)
    if len(mouth) > 50 and not np.isnan(marks[:2]).any():
        across = marks[1] - marks[0]
        along = mouth @ across
        marks[3], marks[4] = mouth[along.argmin()], mouth[along.argmax()]
        if len(nose) > 50:  # its tip is low
            down = (nose - nose.mean(0)) @ np.array([-across[1], across[0]]) / max(np.hypot(*across), 1e-6)
            marks[2] = nose[np.abs(down - np.quantile(down, 0.72)) < 2].mean(0)
    return box, marks


def _centred(boxes: Sequence, grown: tuple[float, float, float]) -> np.ndarray:
    """Boxes x, y, width, height as centre x, y, width, height, each grown."""
    x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
    aside, above, below = grown
    return np.stack(
        [x + width / 2, y + height * (1 + below - above) / 2, width * (1 + 2 * aside), height * (1 + above + below)], 1
    )


def _read_frames(folder: Path, longest: int) -> list[Photo]:
    photos = []
    for name, row in tqdm(json.loads((folder / "faces.json").read_text()).items(), desc="frames", mininterval=5):
        picture, scale = _opened(folder / "images" / name, longest)
        marks = np.array([row["marks"]], np.float32) * scale
        photos.append(Photo(picture, _centred([row["box"]], _FRAMES) * scale, marks, np.ones(1, bool)))
    return photos


def _read_masked(folder: Path, longest: int) -> list[Photo]:
    rows = json.loads((folder / "boxes.json").read_text())
    photos = []
    for name in sorted(rows.keys() - set(held_back(rows))):
        picture, scale = _opened(folder / "images" / f"{name}.png", longest)
        boxes = _centred([row[:4] for row in rows[name]], _MASKED) * scale
        marks = np.full((len(boxes), MARKS, 2), np.nan, np.float32)
        photos.append(Photo(picture, boxes, marks, np.ones(len(boxes), bool), bare=False))
    return photos


def _read_detected(folder: Path, rows: dict, longest: int) -> list[Photo]:
    photos = []
    for name in tqdm(read_names(folder, "train"), desc=folder.name, mininterval=5):
        row = rows.get(f"{folder.name}/{name}.jpg")
        if row is None:
            continue
        picture, _ = _opened(folder / "images" / f"{name}.jpg", longest)
        scale = max(picture.size) / max(row["size"])
        boxes = _centred([face[:4] for face in row["faces"]], _DETECTED) * scale
        marks = np.array(row["marks"], np.float32).reshape(-1, MARKS, 2) * scale
        photos.append(Photo(picture, boxes, marks, np.array([face[4] >= _SURE for face in row["faces"]], bool)))
    return photos
