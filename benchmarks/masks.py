"""Masks: time and exactness of the morphology, and how near refined hair comes to the truth.

``python -m benchmarks.masks [DATA] [--only morphology,refine,hair,enlarged] [--images 50] [--threads 2]``. DATA is a
folder with images/, masks/ and val.txt. Times are medians of nine, taken in turns; quiet the machine first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from benchmarks.timing import medians
from faceparse_core import FaceParser, masks
from faceparse_core.labels import region_ids
from faceparse_core.masks import distances
from faceparse_core.training.data import read_names, read_pair

_SIZE, _LARGE = 2048, 4096
_PARTS = ("morphology", "refine", "hair", "enlarged")
_MEASURED = ("refine", "refine with the network", "cutout")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path, nargs="?", default=Path("../shared/data/celebamask-mini"))
    arguments.add_argument("--only", default=",".join(_PARTS))
    arguments.add_argument("--split", default="val")
    arguments.add_argument("--images", type=int, default=50)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--memory", choices=("inputs", *_MEASURED), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        _memory(args.memory)
        return
    chosen = args.only.split(",")
    if "morphology" in chosen:
        _morphology()
    if "refine" in chosen:
        _refine(args.threads)
    if "hair" in chosen:
        _hair(args)
    if "enlarged" in chosen:
        _enlarged(args)


# ---------------------------------------------------------------------------------------------- morphology


def _disc(size: int, radius: float, width: float = 1.0) -> torch.Tensor:
    """A disc with an edge that is ``width`` pixels wide."""
    places = torch.arange(size) + 0.5
    distance = ((places - 0.49 * size)[None] ** 2 + (places - 0.44 * size)[:, None] ** 2).sqrt()
    return (0.5 + (radius - distance) / width).clamp(0, 1)


def _morphology() -> None:
    soft, wide = _disc(_SIZE, 400), _disc(_SIZE, 400, 30)
    hard = (soft > 0.5).float()
    outside = hard.numpy() == 0
    print(f"{_SIZE}x{_SIZE}, in units of one scipy.ndimage.distance_transform_edt:")
    for name, mask in (("hard", hard), ("1 pixel", soft), ("30 pixels", wide)):
        for step, work in (("grow", masks.grown), ("feather", masks.feathered)):
            transform, near, far = medians(
                partial(ndimage.distance_transform_edt, outside), partial(work, mask, 5), partial(work, mask, 500)
            )
            print(
                f"  {step:7} an edge of {name:9}: by 5 {near / transform:.2f}, by 500 {far / transform:.2f}, "
                f"ratio {far / near:.1f} (that one {transform:.3f} s)"
            )
    exact = ndimage.distance_transform_edt(outside)
    found, _ = distances.border_pixels(~outside[None]).distances(0, 1e6)
    print(f"  distances, greatest difference from scipy's: {np.abs(found[0] - exact)[outside].max():.2f} pixels")
    for width, mask in ((1, soft), (30, wide)):
        for by in (-100, -2.5, 0.5, 5, 500):
            wrong = (masks.grown(mask, by)[0] - _disc(_SIZE, 400 + by, width)).abs().max() * width
            print(f"  an edge of {width} moved by {by}: within {wrong:.2f} pixels of the exact one")

    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.random((_SIZE, _SIZE), dtype=np.float32), 6)
    for name, image in (("disc", ~outside), ("blobs", blobs > np.quantile(blobs, 0.6))):
        mask = torch.from_numpy(image.astype(np.float32))
        ours, scipys = medians(partial(masks.filled, mask), partial(ndimage.binary_fill_holes, image))
        same = np.array_equal(masks.filled(mask)[0].numpy() > 0, ndimage.binary_fill_holes(image))
        print(f"fill holes of {name}: {ours:.3f} s, scipy {scipys:.3f} s, equal: {same}")
        ours, scipys = medians(partial(_our_large_parts, mask), partial(_large_parts, image))
        same = np.array_equal(_our_large_parts(mask)[0].numpy() > 0, _large_parts(image))
        print(f"parts of {name}: {ours:.3f} s, scipy {scipys:.3f} s, equal: {same}")


def _our_large_parts(mask: torch.Tensor) -> torch.Tensor:
    return masks.keep_parts(mask, smallest=400)


def _large_parts(image: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(image)
    sizes = ndimage.sum_labels(image, parts, np.arange(count + 1))
    return (sizes >= 400)[parts] & image


# ---------------------------------------------------------------------------------------------- refining


def _refine(threads: int) -> None:
    """Each in a process of its own: what it takes over one that only makes the image and the mask."""
    figures = {}
    for what in ("inputs", *_MEASURED):
        command = [sys.executable, "-m", "benchmarks.masks", "--memory", what, "--threads", str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures[what] = [float(word) for word in done.stdout.split()]
    for what in _MEASURED:
        seconds, peak = figures[what]
        print(f"{what} of {_LARGE}x{_LARGE}: {seconds:.2f} s, {peak - figures['inputs'][1]:.0f} MB over the start")


def _memory(what: str) -> None:
    import resource

    image = torch.full((1, _LARGE, _LARGE, 3), 0.3)
    mask = torch.empty(1, _LARGE, _LARGE)
    places = torch.arange(_LARGE) + 0.5 - _LARGE / 2
    for rows in range(0, _LARGE, 64):
        distance = 0.3 * _LARGE - (places[None] ** 2 + places[rows : rows + 64, None] ** 2).sqrt()
        mask[0, rows : rows + 64] = torch.sigmoid(distance / _LARGE * 60)
        image[0, rows : rows + 64] += 0.5 * (distance > 0)[..., None]
    method = "network" if what == "refine with the network" else "guided"
    masks.refine(image[:, :64, :64], torch.rand(1, 64, 64), method=method)  # what is loaded once
    start = time.perf_counter()
    if what.startswith("refine"):
        masks.refine(image, mask, hair=True, method=method)
    elif what == "cutout":
        masks.cut_out(image, mask)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(time.perf_counter() - start, peak)


# ---------------------------------------------------------------------------------------------- hair


def _portraits(args):
    """Image, parser's hard and soft hair, truth; portraits with next to no hair are left out."""
    for name in read_names(args.data, args.split)[: args.images]:
        image, labels = read_pair(args.data, name)
        truth = labels == region_ids("hair")[0]
        if truth.sum() > 2000:
            yield image, truth


_REFINED = ("refined", "refined as hair", "refined with the network", "and as hair")


def _refined(image: np.ndarray, soft: torch.Tensor) -> list[torch.Tensor]:
    return [
        masks.refine(image, soft, hair=hair, method=method)
        for method in ("guided", "network")
        for hair in (False, True)
    ]


def _hair(args) -> None:
    parser = FaceParser("lite", "cpu")
    rows = []
    for image, truth in _portraits(args):
        parsing = parser.parse(image)
        hard, soft = parsing.mask("hair"), parsing.mask("hair", soft=True)
        away = np.where(truth, ndimage.distance_transform_edt(truth), ndimage.distance_transform_edt(~truth))
        results = (hard, soft, *_refined(image, soft))
        rows.append([np.abs(mask[0].numpy() - truth)[away <= 16].mean() for mask in results])
    hard, *others = np.mean(rows, axis=0)
    print(f"hair of {len(rows)} portraits, mean absolute error within 16 pixels of the true edge: hard {hard:.4f}")
    for name, error in zip(("soft", *_REFINED), others, strict=True):
        print(f"  {name}: {error:.4f}, {error / hard - 1:+.1%}")


def _enlarged(args) -> None:
    parser = FaceParser("lite", "cpu")
    rows = []
    for image, truth in _portraits(args):
        size = (4 * image.shape[1], 4 * image.shape[0])
        large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        # The contour of the little mask, smooth where the pixels' corners were.
        soft_truth = Image.fromarray(ndimage.gaussian_filter(truth.astype(np.float32), 1))
        true_edge = distances.border_pixels(np.asarray(soft_truth.resize(size, Image.Resampling.BICUBIC))[None] > 0.5)
        parsing = parser.parse(large)
        soft = parsing.mask("hair", soft=True)
        results = (parsing.mask("hair"), *_refined(large, soft))
        rows.append([_boundary_score(mask.numpy() > 0.5, true_edge, 4) for mask in results])
    hard, *others = np.mean(rows, axis=0)
    print(f"hair of {len(rows)} portraits enlarged 4 times, boundary F-score at 4 pixels: hard {hard:.3f}")
    for name, score in zip(_REFINED, others, strict=True):
        print(f"  {name}: {score:.3f}, {100 * (score - hard):+.1f} points")


def _boundary_score(mask: np.ndarray, true_edge: distances.Edge, tolerance: float) -> float:
    edge = distances.border_pixels(mask)
    if not len(edge):
        return 0.0
    precision = (true_edge.nearest(edge.frames, edge.points)[0] <= tolerance).mean()
    recall = (edge.nearest(true_edge.frames, true_edge.points)[0] <= tolerance).mean()
    return 2 * precision * recall / max(precision + recall, 1e-9)


if __name__ == "__main__":
    main()
