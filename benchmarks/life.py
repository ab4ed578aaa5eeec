"""How well a parser knows real life: ``python -m benchmarks.life --portraits DATA --hair DATA --street DATA …``.

The sets are folders of data as ``faceparse train`` takes them, measured on their val.txt; any of them may be left out.

- portraits: F1 by label, pixels pooled, every picture as a whole (``faces="image"``); and the same portraits with a
  surgical mask or a hand drawn before the face: the share of the covered pixels that is taken for parts of the face.
  Tones: mean F1 by skin tone, in classes of the individual typology angle (Chardon et al. 1991) of the median skin.
- hair: IoU of hair, pictures of heads in the wild, from behind too.
- street: whole bodies; IoU of hair and eyeglasses; clothing taken for hair or hat, in units of the hair's pixels, and
  the share of the clothing that is found.
- poses: heads turned aside, of which only hair is told; names begin with the turn in degrees, as ``90_somebody``: F1 of
  hair by turn (FASSEG, whose labels are those of its set V3, was measured so).
- empty: pictures without people; the share of their pixels that is background.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from faceparse_core import FaceParser, edits
from faceparse_core.labels import LABELS, region_ids
from faceparse_core.training import covers
from faceparse_core.training.data import PICTURE_SUFFIXES, read_names, read_pair
from faceparse_core.training.metrics import Confusion

_HAIR, _HAT, _CLOTH, _GLASSES = (region_ids(name)[0] for name in ("hair", "hat", "clothing", "eyeglasses"))
_SKIN = region_ids("skin")[0]
_BODY = [label.id for label in LABELS if label.name not in ("background", "eye_g", "hat", "ear_r", "neck_l")]
_FACE_PARTS = torch.tensor(region_ids("skin + nose + eyes + brows + lips + mouth"))


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.life", description=__doc__)
    for name in ("portraits", "hair", "street", "poses"):
        arguments.add_argument(f"--{name}", type=Path, metavar="DATA")
    arguments.add_argument("--empty", type=Path, metavar="FOLDER", help="pictures without people")
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = arguments.parse_args()
    parser = FaceParser(args.model, precision=args.precision)
    print(parser)
    figures = {}
    for name, measure in (
        ("portraits", portraits), ("covered", covered), ("hair", hair), ("street", street),
        ("poses", poses), ("empty", empty),
    ):  # fmt: skip
        data = getattr(args, "portraits" if name == "covered" else name)
        if data:
            figures[name] = measure(parser, data)
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures[name].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def portraits(parser: FaceParser, data: Path) -> dict:
    confusion = Confusion()
    by_tone: dict[str, list[Confusion]] = {}
    for image, mask in _pairs(data):
        one = Confusion()
        one.add(torch.from_numpy(mask), parser.parse(image, faces="image").labels[0])
        confusion.counts += one.counts
        by_tone.setdefault(_tone(image, mask), []).append(one)
    f1 = {label.name: round(value, 3) for label, value in zip(LABELS, confusion.f1.tolist(), strict=True)}
    tones = {}
    for name, some in sorted(by_tone.items()):
        pooled = Confusion()
        pooled.counts = torch.stack([one.counts for one in some]).sum(0)
        # Without accessories: a group of few pictures has few of them, and they would decide.
        tones[f"tone {name} ({len(some)})"] = round(pooled.f1[_BODY].nanmean().item(), 4)
    return {"mean F1": round(confusion.mean_f1, 4), **f1, **tones}


def _tone(image: np.ndarray, mask: np.ndarray) -> str:
    """The class of a face's skin by its typology angle, from the median of its skin in CIELAB (D65)."""
    skin = torch.from_numpy(image[mask == _SKIN]).double() / 255
    if not len(skin):
        return "unknown"
    name = edits.tone_class(edits.typology_angle(edits.to_cielab(skin).quantile(0.5, 0)))
    return f"{[known for _, known in edits.TONES].index(name) + 1} {name}"


def covered(parser: FaceParser, data: Path) -> dict:
    """The seed goes with the picture: the same things lie before the same faces each time."""
    wrong = {"surgical mask": [0, 0], "hand": [0, 0]}
    for number, (image, mask) in enumerate(_pairs(data)):
        for kind, counts in wrong.items():
            rng = np.random.default_rng((7, number))
            picture, labels = Image.fromarray(image), Image.fromarray(mask)
            if kind == "hand":
                picture, after = covers.hand(picture, labels, rng)
            else:
                picture, after = covers.surgical_mask(picture, labels, rng, functools.partial(_cloth, rng))
            hidden = torch.isin(torch.from_numpy(mask), _FACE_PARTS) & (torch.from_numpy(np.array(after)) == 0)
            seen = torch.isin(parser.parse(picture, faces="image").labels[0], _FACE_PARTS)
            counts[0] += (seen & hidden).sum().item()
            counts[1] += hidden.sum().item()
    return {kind: round(taken / max(1, all_of_it), 4) for kind, (taken, all_of_it) in wrong.items()}


def _cloth(rng: np.random.Generator) -> np.ndarray:
    """A coloured pattern, uint8 [64, 64, 3]; a piece of a picture could show a face, which is no cover."""
    cells = int(rng.choice([2, 4, 16, 64]))
    field = rng.uniform(0, 255, 3) + rng.normal(0, 50, (cells, cells, 3))
    return np.array(Image.fromarray(field.clip(0, 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BILINEAR))


def hair(parser: FaceParser, data: Path) -> dict:
    figures = {}
    for faces in ("image", "auto"):
        confusion = _confusion(parser, data, faces)
        figures[f"IoU {faces}"] = round(confusion.iou[_HAIR].item(), 4)
    return figures


def street(parser: FaceParser, data: Path) -> dict:
    figures = {}
    for faces in ("image", "auto"):
        confusion = _confusion(parser, data, faces)
        counts = confusion.counts
        as_hair = counts[_CLOTH, [_HAIR, _HAT]].sum() / counts[_HAIR].sum()
        figures |= {
            f"hair IoU {faces}": round(confusion.iou[_HAIR].item(), 4),
            f"eyeglasses IoU {faces}": round(confusion.iou[_GLASSES].item(), 4),
            f"clothing as hair or hat {faces}": round(as_hair.item(), 4),
            f"clothing found {faces}": round(confusion.recall[_CLOTH].item(), 4),
        }
    return figures


def poses(parser: FaceParser, data: Path) -> dict:
    by_turn: dict[str, Confusion] = {}
    for name in tqdm(read_names(data, "val"), desc=data.name, unit="image", leave=False, disable=None):
        image, mask = read_pair(data, name)
        confusion = by_turn.setdefault(name.partition("_")[0], Confusion())
        confusion.add(torch.from_numpy(mask), parser.parse(image, faces="image").labels[0])
    return {f"hair F1 at {turn}": round(one.f1[_HAIR].item(), 3) for turn, one in sorted(by_turn.items())}


def empty(parser: FaceParser, folder: Path) -> dict:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    shares, faces = {"image": [], "auto": []}, 0
    for path in tqdm(paths, unit="image", leave=False, disable=None):
        for how, values in shares.items():
            parsing = parser.parse(path, faces=how)
            values.append((parsing.labels == 0).float().mean().item())
            faces += len(parsing.faces[0]) if how == "auto" else 0
    return {f"background {how}": round(float(np.mean(values)), 4) for how, values in shares.items()} | {
        "pictures": len(paths),
        "faces": faces,
    }


def _confusion(parser: FaceParser, data: Path, faces: str) -> Confusion:
    confusion = Confusion()
    for image, mask in _pairs(data):
        confusion.add(torch.from_numpy(mask), parser.parse(image, faces=faces).labels[0])
    return confusion


def _pairs(data: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for name in tqdm(read_names(data, "val"), desc=data.name, unit="image", leave=False, disable=None):
        yield read_pair(data, name)


if __name__ == "__main__":
    main()
