"""Edits: hair in another colour, by hue, texture and rim; the time of edits; contact sheets to look at.

``python -m benchmarks.edits DATA [--only colour,time,looks] [--sheet sheet.png] [--threads 2]``. DATA is a folder with
images/, masks/ and val.txt: the ten portraits with the darkest and the ten with the lightest hair are dyed; with
``--only looks`` they are made up instead, in every look, and their skin is smoothed. Times are
medians of nine, taken in turns, in units of one look of lite at a 512x512 portrait, in ``--precision``; quiet the
machine first. Masks are at hand; what an edit refines itself counts.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from benchmarks import timing
from faceparse_core import FaceParser, edits, images, masks
from faceparse_core.edits.colours import lab, lightness, to_oklab
from faceparse_core.edits.recolour import dye, tones
from faceparse_core.labels import region_ids
from faceparse_core.training.data import read_names, read_pair

_COLOURS = {"black": "#17130f", "copper": "#b5562b", "platinum": "#e8dcc4", "blue": "#2f5fb3"}
# Of black and platinum the hue says little: for these the error is that of chroma.
_HUED = ("copper", "blue")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--only", default="colour,time")
    arguments.add_argument("--sheet", type=Path)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    arguments.add_argument("--processor", action="store_true", help="count the processor's time, with one thread")
    args = arguments.parse_args()
    torch.set_num_threads(1 if args.processor else args.threads)
    timing.clock = time.process_time if args.processor else time.perf_counter
    chosen = _chosen(args.data)
    parser = FaceParser("lite", "cpu", args.precision)
    if "colour" in args.only:
        _colour(parser, chosen, args.sheet)
    if "looks" in args.only and args.sheet:
        _looks(parser, chosen, args.sheet)
    if "time" in args.only:
        _time(parser, chosen[0])


def _chosen(data: Path) -> list[np.ndarray]:
    """The ten portraits with the darkest hair and the ten with the lightest, by its median lightness."""
    found = []
    for name in read_names(data, "val"):
        image, labels = read_pair(data, name)
        inside = labels == region_ids("hair")[0]
        if inside.mean() > 0.06:
            found.append((float(lightness(torch.from_numpy(image[inside]).float() / 255).median()), name))
    found.sort()
    print(f"hair of lightness {found[0][0]:.2f}..{found[9][0]:.2f} and {found[-10][0]:.2f}..{found[-1][0]:.2f}")
    return [read_pair(data, name)[0] for _, name in (*found[:10], *found[-10:])]


def _hair(parser: FaceParser, image: np.ndarray) -> torch.Tensor:
    return masks.refine(image, parser.parse(image).mask("hair", soft=True), hair=True, method="network")


def _colour(parser: FaceParser, chosen: list[np.ndarray], sheet: Path | None) -> None:
    figures: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in _COLOURS}
    lines = []
    for image in chosen:
        hair = _hair(parser, image)
        line = [image]
        for name, colour in _COLOURS.items():
            dyed = edits.recolour(image, hair, colour)[0]
            figures[name].append((*_hue_and_texture(image, dyed, hair[0], colour), _halo(image, hair[0], colour)))
            line.append((dyed * 255).round().byte().numpy())
        lines.append(np.concatenate([np.asarray(Image.fromarray(one).resize((256, 256))) for one in line], 1))
    for name, rows in figures.items():
        hue, chroma, texture, halo = np.array(rows).T
        told = f"hue {hue.mean():.1f} degrees off" if name in _HUED else f"chroma {chroma.mean():.3f} off"
        print(
            f"{name}: {told}, local lightness correlates by {texture.mean():.3f} (least {texture.min():.3f}, dark "
            f"{texture[:10].mean():.3f}, light {texture[10:].mean():.3f}), rim {halo.mean():+.1f}/255 "
            f"(farthest {halo[np.abs(halo).argmax()]:+.1f}, beyond 4: {(np.abs(halo) > 4).sum()} of {len(halo)})"
        )
    if sheet:
        half = len(lines) // 2
        Image.fromarray(np.concatenate([np.concatenate(lines[:half]), np.concatenate(lines[half:])], 1)).save(sheet)


def _hue_and_texture(
    image: np.ndarray, dyed: torch.Tensor, hair: torch.Tensor, colour: str
) -> tuple[float, float, float]:
    """Mean hue error in degrees, by chroma; error of the median chroma; correlation of local lightness contrast."""
    inside = torch.from_numpy(ndimage.binary_erosion((hair > 0.99).numpy(), iterations=8))
    # What a file would hold: 8 bits.
    before, after = (
        to_oklab(pixels.reshape(-1, 3)).view(*hair.shape, 3)
        for pixels in (torch.from_numpy(image).float() / 255, (dyed * 255).round() / 255)
    )
    wanted, found = lab(colour), after[inside]
    chroma = found[:, 1:].norm(dim=1)
    away = torch.atan2(found[:, 2], found[:, 1]) - torch.atan2(wanted[2], wanted[1])
    away = torch.rad2deg((torch.remainder(away + torch.pi, 2 * torch.pi) - torch.pi).abs())
    weight = inside.numpy().astype(np.float32)

    def local(values: torch.Tensor) -> np.ndarray:
        level = values.numpy()
        mean = ndimage.gaussian_filter(level * weight, 6) / ndimage.gaussian_filter(weight, 6).clip(1e-6)
        return (level - mean)[inside.numpy()]

    texture = np.corrcoef(local(before[..., 0]), local(after[..., 0]))[0, 1]
    hue = (away * chroma).sum() / chroma.sum()
    return hue.item(), abs(chroma.median() - wanted[1:].norm()).item(), texture


def _halo(image: np.ndarray, hair: torch.Tensor, colour: str) -> float:
    """How much brighter (or darker) the rim is than it should be, of 255: the portrait's hair with its mask is laid on
    a plain wall, as light as its surroundings, and dyed; and dyed alone, and then laid on it."""
    picture = torch.from_numpy(image).float() / 255
    own = masks.foreground(picture, hair)[0]
    around = torch.from_numpy(ndimage.binary_dilation((hair > 0).numpy(), iterations=20)) & (hair == 0)
    wall = picture[around].median(0).values
    alpha = hair[..., None]
    laid = alpha * own + (1 - alpha) * wall
    # By the lightness of the hair where it is whole, as the picture is: told anew it would be that of the guessed
    # fringe, too, and all the hair, its inside as well, would come out in another tone.
    dyed, new = torch.where(alpha > 0, own, wall), lab(colour)
    dye(dyed, (hair > 0).float(), (new, new), tones(laid, hair))
    truth = alpha * dyed + (1 - alpha) * wall
    rim = (hair > 0.02) & (hair < 0.98)
    return ((edits.recolour(laid, hair, colour)[0] - truth)[rim].mean() * 255).item()


def _looks(parser: FaceParser, chosen: list[np.ndarray], sheet: Path) -> None:
    """A line for each face: as it was, in each look, with smoother skin."""
    lines = []
    for image in chosen:
        parsing = parser.parse(image)
        line = [torch.from_numpy(image).float() / 255]
        line += [edits.make_up(image, parsing.labels, parsing.faces, name)[0] for name in edits.LOOKS]
        line.append(edits.smooth_skin(image, parsing.labels, parsing.faces)[0])
        lines.append(torch.cat([images.resize((one * 255).round().byte(), (256, 256)) for one in line], 1))
    images.save(torch.cat(lines), sheet)
    print(f"{sheet}: as it was, {', '.join(edits.LOOKS)}, smoother skin")


def _time(parser: FaceParser, image: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(image).resize((1024, 1024)))
    small = np.asarray(Image.fromarray(image).resize((512, 512)))
    parsing = parser.parse(large)
    hair = _hair(parser, large)
    person = masks.refine(large, parsing.mask("person", soft=True), hair=True)
    labels, faces = parsing.labels, parsing.faces
    hidden = edits.hidden_area(labels, faces)
    steps = {name: step for name, step in vars(edits.look("evening")).items() if step}
    steps["irises"] = edits.look({"irises": {"colour": "#3f7fbf"}}).irises
    works = {
        "recolour": partial(edits.recolour, large, hair, "#b5562b"),
        "blurred background": partial(edits.blur_background, large, person),
        "plain background": partial(edits.replace_background, large, person, "white"),
        **{f"look {name}": partial(edits.make_up, large, labels, faces, name) for name in edits.LOOKS},
        **{
            f"- {name} of evening": partial(edits.make_up, large, labels, faces, edits.Look(**{name: steps[name]}))
            for name in steps
        },
        "skin": partial(edits.smooth_skin, large, labels, faces),
        "pixelated": partial(edits.hide, large, hidden, faces),
    }
    for name in ("round glasses", "hat", "beard"):
        piece = edits.piece(name)
        front = hair if piece.behind else None
        works[name] = partial(edits.try_on, large, piece, labels, faces, front=front)
    look, *others = timing.medians(
        lambda: parser.parse(small).labels,
        *works.values(),
    )
    unit = f"one look of lite in {parser.precision} ({look * 1000:.0f} ms)"
    print(f"1024x1024, in units of {unit}; hair is {(hair > 0).float().mean():.0%}:")
    for name, seconds in zip(works, others, strict=True):
        print(f"  {name}: {seconds / look:.2f}")


if __name__ == "__main__":
    main()
