"""Faces in whole scenes: ``python -m benchmarks.faces [DATA] --backgrounds FOLDER [--only found close-ups …]``.

Test pictures are made: one to six labelled portraits at random scale, tilt and place over a picture without people,
their true labels kept. Portraits are cut out along their labels, or (``--square``) pasted with their own background.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from benchmarks.timing import medians
from faceparse_core import FaceParser
from faceparse_core.faces import Face, Finder, crop_faces
from faceparse_core.images import load
from faceparse_core.labels import GROUPS
from faceparse_core.training.data import PICTURE_SUFFIXES, read_names, read_pair
from faceparse_core.training.metrics import Confusion

_FACE = list(GROUPS["face"])
_CANVASES = ((1280, 960), (1024, 1024), (960, 1280), (1600, 900), (1024, 683))


@dataclass(frozen=True)
class Pasted:
    """One portrait in a scene: its number, the face's height in pixels, its tilt (degrees clockwise) and its box.

    ``height`` is that of the upright face; ``box`` (x, y, width, height) holds the tilted one. ``place`` is the upper
    left corner of what was pasted, ``side`` that of the portrait's square.
    """

    portrait: int
    height: float
    angle: float
    box: tuple[int, int, int, int]
    place: tuple[int, int]
    side: int


@dataclass(frozen=True)
class Scene:
    """A test picture: pixels, uint8 [H, W, 3]; true labels, uint8 [H, W]; whose they are, int8 [H, W], -1: nobody's."""

    pixels: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    faces: tuple[Pasted, ...]


def read_backgrounds(folder: Path) -> list[Image.Image]:
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    return [Image.open(path).convert("RGB") for path in paths]


def scenes(
    portraits: Sequence[tuple[np.ndarray, np.ndarray]],
    backgrounds: Sequence[Image.Image],
    count: int,
    *,
    heights: tuple[float, float] = (64, 400),
    tilt: float | None = None,
    square: bool = False,
    canvas: tuple[int, int] | None = None,
    people: int | None = None,
    seed: int = 0,
) -> Iterator[Scene]:
    """Scenes one after another, the same for the same arguments.

    ``heights``: of the faces, between these, all orders of magnitude alike. ``tilt``: at most so many degrees to either
    side, half of them up to 15 and the others up to 45 if not given. ``people``: one to six if not given.
    """
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        width, height = canvas or _CANVASES[rng.integers(len(_CANVASES))]
        background = backgrounds[rng.integers(len(backgrounds))]
        scene = _Canvas(_covering(background, width, height))
        for _ in range(people or rng.integers(1, 7)):
            most = tilt if tilt is not None else 15 if rng.random() < 0.5 else 45
            index = int(rng.integers(len(portraits)))
            tall = math.exp(rng.uniform(*np.log(heights)))
            scene.paste(index, *portraits[index], min(tall, 0.6 * height), rng.uniform(-most, most), square, rng)
        yield scene.finished()


class _Canvas:
    def __init__(self, picture: Image.Image):
        self.pixels = np.array(picture)
        self.labels = np.zeros(self.pixels.shape[:2], np.uint8)
        self.owner = np.full(self.labels.shape, -1, np.int8)
        self.pasted: list[tuple] = []

    def paste(self, index, image, mask, tall, angle, square, rng) -> None:
        """Put a portrait where it covers no face and its own face is wholly in the picture; nowhere if nowhere is."""
        rows = np.isin(mask, _FACE).any(1).nonzero()[0]
        side = round(mask.shape[0] * tall / (rows[-1] - rows[0] + 1))
        image, mask, alpha = turned(image, mask, side, angle, square)
        high, wide = mask.shape
        face = np.isin(mask, _FACE)
        rows, columns = face.any(1).nonzero()[0], face.any(0).nonzero()[0]
        room = [(-first, size - last - 1) for (first, last), size in zip(
            ((columns[0], columns[-1]), (rows[0], rows[-1])), self.labels.shape[::-1], strict=True)]  # fmt: skip
        if any(low > high for low, high in room):
            return
        for _ in range(30):
            left, top = (int(rng.integers(low, high + 1)) for low, high in room)
            y, x = slice(max(0, top), max(0, top + high)), slice(max(0, left), max(0, left + wide))
            there = self.labels[y, x]
            cut = (
                slice(y.start - top, y.start - top + there.shape[0]),
                slice(x.start - left, x.start - left + there.shape[1]),
            )
            covered = alpha[cut] > 0
            # Nobody's face is covered, and nobody stands so close that two faces touch.
            if not (np.isin(there, _FACE) & covered).any() and not (self.owner[y, x][face[cut]] >= 0).any():
                break
        else:
            return
        soft = alpha[cut][..., None] / 255
        self.pixels[y, x] = np.round(image[cut] * soft + self.pixels[y, x] * (1 - soft))
        solid = alpha[cut] >= 128
        self.labels[y, x][solid] = mask[cut][solid]
        self.owner[y, x][solid] = len(self.pasted)
        self.pasted.append((index, tall, angle, (left, top), side))

    def finished(self) -> Scene:
        faces = []
        for number, (index, tall, angle, place, side) in enumerate(self.pasted):
            face = np.isin(self.labels, _FACE) & (self.owner == number)
            rows, columns = face.any(1).nonzero()[0], face.any(0).nonzero()[0]
            x, y = int(columns[0]), int(rows[0])
            box = x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
            faces.append(Pasted(index, tall, angle, box, place, side))
        return Scene(self.pixels, self.labels, self.owner, tuple(faces))


def turned(image: np.ndarray, mask: np.ndarray, side: int, angle: float, square: bool):
    """A portrait of this side, turned clockwise: pixels, labels, and how much of it is pasted (0..255)."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    labels = Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST)
    whole = Image.new("L", (side, side), 255)
    picture = picture.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    labels = labels.rotate(-angle, Image.Resampling.NEAREST, expand=True)
    whole = whole.rotate(-angle, Image.Resampling.BILINEAR, expand=True)
    if square:
        return np.array(picture), np.array(labels), np.array(whole)
    # A little inside of the person, so that no rim of the old background comes along.
    person = Image.fromarray((np.array(labels) > 0).astype(np.uint8) * 255)
    inner = person.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(1))
    return np.array(picture), np.array(labels), np.minimum(np.array(inner), np.array(whole))


def _covering(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture, brought to this size."""
    scale = max(width / picture.width, height / picture.height)
    size = math.ceil(picture.width * scale), math.ceil(picture.height * scale)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))


# ---------------------------------------------------------------------------------------------- measures


class Bench:
    """What all measures share: the parser, the portraits, the backgrounds."""

    def __init__(self, args):
        self.args = args
        self.parser = FaceParser(args.model, args.device, args.precision)
        self.portraits = [read_pair(args.data, name) for name in read_names(args.data, "val")]
        self.backgrounds = read_backgrounds(args.backgrounds)
        self._alone: dict[int, np.ndarray] = {}

    def scenes(self, **kind) -> Iterator[Scene]:
        kind = {"square": self.args.square, "seed": self.args.seed, **kind}
        return scenes(self.portraits, self.backgrounds, self.args.scenes, **kind)

    def alone(self, portrait: int) -> np.ndarray:
        """The labels of a portrait that is parsed by itself."""
        if portrait not in self._alone:
            image = self.portraits[portrait][0]
            self._alone[portrait] = self.parser.parse(image, faces="image").labels[0].numpy()
        return self._alone[portrait]


def found(bench: Bench) -> None:
    """Faces from 64 pixels found, and faces where there are none."""
    rows: dict[str, list[bool]] = {}
    surplus = count = 0
    finder = Finder.bundled(bench.parser.device, bench.parser.precision)
    upright = [(scene, "tilt up to 45") for scene in bench.scenes()]
    for scene, kind in [*upright, *((scene, "any tilt") for scene in bench.scenes(tilt=180))]:
        (faces,) = finder.find([torch.from_numpy(scene.pixels)])
        free = list(faces)
        for true in scene.faces:
            best = max(free, key=lambda face: overlap(true.box, face), default=None)
            hit = best is not None and overlap(true.box, best) >= 0.5
            if hit:
                free.remove(best)
            tall = "64 to 96" if true.height < 96 else "96 to 192" if true.height < 192 else "192 and more"
            for row in (kind, f"{kind}, {tall} pixels"):
                rows.setdefault(row, []).append(hit)
            if abs(true.angle) <= 25:
                rows.setdefault("tilt up to 25", []).append(hit)
        surplus += len(free)
        count += 1
    for row, hits in rows.items():
        print(f"found, {row}: {np.mean(hits):.1%} of {len(hits)}")
    print(f"false faces a scene: {surplus / count:.3f} ({count} scenes)")
    pictures = [picture.resize((picture.width * k, picture.height * k), Image.Resampling.LANCZOS)
                for picture in [*bench.backgrounds, *_package_pictures()] for k in (1, 2)]  # fmt: skip
    false = sum(len(faces) for picture in pictures for faces in finder.find(load(picture)))
    print(f"false faces a picture without people: {false / len(pictures):.3f} ({len(pictures)} pictures)")


def _package_pictures() -> Iterator[Image.Image]:
    """Pictures that come with scikit-image and matplotlib, where they are installed; those with people left out."""
    people = {"astronaut", "camera", "grace_hopper", "logo"}
    for package, folder in (("skimage", "data"), ("matplotlib", "mpl-data/sample_data")):
        spec = importlib.util.find_spec(package)
        if spec:
            for path in sorted((Path(spec.origin).parent / folder).iterdir()):
                if path.suffix.lower() in PICTURE_SUFFIXES and path.stem not in people:
                    yield Image.open(path).convert("RGB")


def labels(bench: Bench) -> None:
    """Mean F1 of pasted faces of 96 pixels and more against that of the portraits parsed alone."""
    for name, kind in (("scenes", {}), ("upright", {"tilt": 0}), ("tilt up to 45", {"tilt": 45})):
        ours, alone, beside, owned = Confusion(), Confusion(), np.zeros(2, np.int64), np.zeros(2, np.int64)
        for scene in bench.scenes(heights=(96, 400), **kind):
            parsing = bench.parser.parse(scene.pixels)
            parsed = parsing.labels[0].numpy()
            people = np.zeros(parsed.shape, bool)
            for number, face in enumerate(scene.faces):
                place, counts, reference = _pasted_labels(bench, scene, number, face)
                truth = torch.from_numpy(scene.labels[place][counts])
                ours.add(truth, torch.from_numpy(parsed[place][counts]))
                alone.add(truth, torch.from_numpy(reference[counts]))
                people[place] |= counts
                # Of the pixels that are this person's, how many the parsing gives to the face that is.
                faces = parsing.faces[0]
                best = max(faces, key=lambda other: overlap(face.box, other), default=None)
                if best is not None and overlap(face.box, best) >= 0.5:
                    own = parsing.mask("person", face=best.index)[0].numpy() > 0
                    mine = (scene.owner == number) & (parsed > 0)
                    owned += (own & mine).sum(), mine.sum()
            rest = ~people & (scene.owner < 0)
            beside += (parsed[rest] > 0).sum(), rest.sum()
        print(
            f"{name}: mean F1 {ours.mean_f1:.4f}, the portraits alone {alone.mean_f1:.4f}; "
            f"beside them {beside[0] / beside[1]:.3%} not background; {owned[0] / owned[1]:.2%} given to the right face"
        )


def _pasted_labels(bench: Bench, scene: Scene, number: int, face: Pasted):
    """Where a portrait was pasted (rows and columns), which pixels of it count, and its labels when parsed alone."""
    image = bench.portraits[face.portrait][0]
    _, reference, whole = turned(image, bench.alone(face.portrait), face.side, face.angle, square=True)
    (left, top), (high, wide) = face.place, reference.shape
    rows = slice(max(0, top), max(0, min(top + high, scene.labels.shape[0])))
    columns = slice(max(0, left), max(0, min(left + wide, scene.labels.shape[1])))
    cut = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    owner = scene.owner[rows, columns]
    return (rows, columns), (whole[cut] > 127) & ((owner == number) | (owner < 0)), reference[cut]


def close_ups(bench: Bench) -> None:
    """Portraits that one face fills: ``auto`` against ``image``."""
    images = [image for image, _ in bench.portraits]
    equal = [
        (bench.parser.parse(image).labels == bench.parser.parse(image, faces="image").labels).float().mean().item()
        for image in images
    ]
    print(f"close-ups: {np.mean(equal):.2%} of the labels equal, {np.mean(np.array(equal) == 1):.0%} of them wholly")
    pairs = [
        medians(
            lambda image=image: bench.parser.parse(image, faces="image").labels,
            lambda image=image: bench.parser.parse(image).labels,
        )
        for image in images[:6]
    ]
    whole, auto = (float(np.median(times)) * 1000 for times in zip(*pairs, strict=True))
    print(f"close-ups: auto {auto:.1f} ms, image {whole:.1f} ms: {auto / whole - 1:+.1%}")


def cost(bench: Bench) -> None:
    """Time of scenes in units of one look of the network at a square of its size, by the number of faces in them: in
    turns, for both are as fast as the machine is at that moment."""
    image = bench.portraits[0][0]
    for people in (1, 2, 4, 8):
        (scene,) = scenes(
            bench.portraits, bench.backgrounds, 1, heights=(90, 200), canvas=(1280, 886), people=people, seed=5
        )
        count = len(bench.parser.parse(scene.pixels).faces[0])
        look, whole = medians(
            lambda: bench.parser.parse(image, faces="image"),
            lambda scene=scene: bench.parser.parse(scene.pixels),
            rounds=15,
        )
        print(f"cost: {count} faces found of {len(scene.faces)}: {whole / look:.2f} looks of {look * 1000:.0f} ms, "
              f"{whole / look - count:.2f} beside the faces")  # fmt: skip


def photo(bench: Bench) -> None:
    """A photo of 4000x3000 with six faces: time, and memory over that of the same photo parsed whole."""
    import resource

    (scene,) = scenes(
        bench.portraits, bench.backgrounds, 1, heights=(150, 900), tilt=20, canvas=(4000, 3000), people=6, seed=3
    )
    bench.parser.parse(scene.pixels, faces="image").labels  # noqa: B018
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(5):
        start = time.perf_counter()
        parsing = bench.parser.parse(scene.pixels)
        parsing.labels  # noqa: B018
        times.append(time.perf_counter() - start)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(f"photo of 4000x3000, {len(scene.faces)} faces, {len(parsing.faces[0])} found: {np.median(times):.2f} s, "
          f"{more:.0f} MB more than parsed whole")  # fmt: skip


def flicker(bench: Bench) -> None:
    """Share of pixels whose label changes between frames of a still scene, with noise and steps of a pixel."""
    rng = np.random.default_rng(bench.args.seed)
    loose, tracked = [], []
    for scene in scenes(bench.portraits, bench.backgrounds, 4, heights=(90, 350), people=3, seed=bench.args.seed):
        frames = []
        for _ in range(8):
            moved = np.roll(scene.pixels, rng.integers(-1, 2, 2), (0, 1))
            frames.append((moved + rng.normal(0, 4, moved.shape)).clip(0, 255).astype(np.uint8))
        for changes, track in ((loose, False), (tracked, True)):
            parsed = bench.parser.parse(frames, track=track).labels
            changes.append((parsed[1:] != parsed[:-1]).float().mean().item())
    print(f"flicker: {np.mean(loose):.3%} of the pixels, tracked {np.mean(tracked):.3%}: "
          f"{np.mean(tracked) / np.mean(loose):.2f} of it")  # fmt: skip


def crops(bench: Bench) -> None:
    """How far the centres of crops move from frame to frame of a still scene with noise, in pixels."""
    rng = np.random.default_rng(bench.args.seed)
    moved: dict[bool, list[float]] = {False: [], True: []}
    for scene in scenes(bench.portraits, bench.backgrounds, 4, heights=(90, 350), people=3, seed=bench.args.seed):
        frames = [(scene.pixels + rng.normal(0, 8, scene.pixels.shape)).clip(0, 255).astype(np.uint8) for _ in range(8)]
        for track, steps in moved.items():
            places = crop_faces(frames, bench.parser.parse(frames, track=track))[2].places
            for frame in range(1, len(frames)):
                before = [(place.x, place.y) for place in places if place.image == frame - 1]
                now = [(place.x, place.y) for place in places if place.image == frame]
                # Whoever is there in both frames is where he was; what is further away is somebody else.
                steps += [step for at in now if (step := min((math.dist(at, was) for was in before), default=99)) < 30]
    loose, tracked = (float(np.mean(steps)) for steps in moved.values())
    print(
        f"crops: their centres move by {loose:.2f} pixels a frame, tracked {tracked:.2f}: {tracked / loose:.2f} of it"
    )


def overlap(box: Sequence[int], face: Face) -> float:
    """Intersection over union of a box (x, y, width, height) and a face's."""
    width = min(box[0] + box[2], face.x + face.width) - max(box[0], face.x)
    height = min(box[1] + box[3], face.y + face.height) - max(box[1], face.y)
    both = max(0, width) * max(0, height)
    return both / (box[2] * box[3] + face.width * face.height - both)


_MEASURES = {"found": found, "labels": labels, "close-ups": close_ups, "cost": cost, "photo": photo, "flicker": flicker,
             "crops": crops}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="?", default=Path("../shared/data/celebamask-mini"))
    arguments.add_argument("--backgrounds", type=Path, required=True, help="a folder of pictures without people")
    arguments.add_argument("--scenes", type=int, default=40)
    arguments.add_argument("--square", action="store_true", help="paste portraits with their own background")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--model", default="lite")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--only", nargs="+", choices=_MEASURES, default=list(_MEASURES))
    bench = Bench(arguments.parse_args())
    for measure in bench.args.only:
        _MEASURES[measure](bench)


if __name__ == "__main__":
    main()
