"""``faceparse edit IMAGE …``: pictures with the person's hair, face or background changed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from faceparse_core.cli.files import Outputs, out_path, pictures_in
from faceparse_core.cli.options import add_model_options, face_parser
from faceparse_core.errors import enough_memory, number

if TYPE_CHECKING:
    from torch import Tensor

    from faceparse_core.parsing import Parsing

# What takes a colour: the option, the region of its mask, and what it says of itself.
_COLOURED = (
    ("hair", "hair", "the hair"),
    ("brows", "brows", "the brows"),
    ("lips", "lips", "the lips"),
    ("clothes", "clothing", "the clothes"),
    ("glasses", "eyeglasses", "the frame of the glasses"),
)

_EPILOG = """\
examples:
  faceparse edit portrait.jpg --hair "#7a1f2b" -o out.jpg              hair in another colour
  faceparse edit portrait.jpg --hair "#3a2416" --tips "#d9a441"        … dark above, blond at the tips
  faceparse edit portrait.jpg --background blur --radius 3             beside the picture: portrait.edited.png
  faceparse edit portrait.jpg --background transparent -o me.png
  faceparse edit group.jpg --privacy pixelate -o nobody.png            every face that is found, hidden
  faceparse edit portraits/ --background white --out edited/           every picture of a folder

colours:
  "#7a1f2b" (in quotes: the shell takes # for a comment), or a name such as navy, silver, saddlebrown

order:
  whatever the order of the options: colours first, then what is hidden, the background last
"""


def edit(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse edit",
        description="Changes people in pictures: hair colour, background. What is not meant stays as it is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    parser.add_argument("-o", "--out", type=out_path, help="file to write if there is one picture; else a folder")
    for option, _, what in _COLOURED:
        parser.add_argument(f"--{option}", type=_colour, metavar="COLOUR", help=f"the colour of {what}")
    parser.add_argument("--tips", type=_colour, metavar="COLOUR", help="the colour of the hair's tips (with --hair)")
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="0..1", help="how much of the new colours is seen (1)"
    )
    parser.add_argument(
        "--privacy", choices=("pixelate", "blur", "solid", "average-face"), help="hides everybody's face, or --area"
    )
    parser.add_argument(
        "--area",
        choices=("face", "eyes", "head", "all-but-the-face"),
        help="what --privacy hides (face)",
    )
    parser.add_argument(
        "--background",
        type=_background,
        metavar="WHAT",
        help="blur, transparent, a colour, or the file of another picture",
    )
    parser.add_argument(
        "--radius", type=float, default=2.0, metavar="PERCENT", help="of the blur, of the picture's longer side (2)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are not from faceparse, too")
    add_model_options(parser)
    if not argv:
        parser.print_help()
        return 2
    args = parser.parse_args(argv)
    steps = _steps(args)
    if not steps:
        parser.error("nothing is to be changed: say what, for example --hair '#7a1f2b' or --background blur")
    if args.area and not args.privacy:
        parser.error("--area is what --privacy hides: give both")
    if args.tips and not args.hair:
        parser.error("--tips is the second colour of --hair: give both")
    try:
        number("--strength", args.strength, 0, 1)
        number("--radius", args.radius, 0, 25)
    except ValueError as error:
        parser.error(str(error))
    inputs = pictures_in(args.images)
    one_file = args.out is not None and args.out.suffix and not os.path.isdir(args.out)
    if one_file and (len(inputs) > 1 or os.path.isdir(args.images[0])):
        parser.error(f"--out {args.out} is one file, but there are {len(inputs)} pictures: give a folder")
    if args.out is not None and not one_file:
        args.out.mkdir(parents=True, exist_ok=True)
    return _edit_files(args, inputs, steps, args.out if one_file else None)


_Step = Callable[["Tensor", "Parsing"], "Tensor"]
"""An image [1, H, W, 3] and its parsing, before anything was changed -> the image with one thing changed."""


def _steps(args: argparse.Namespace) -> list[_Step]:
    """What is to be done, in the order in which it is."""
    steps: list[_Step] = []
    for option, region, _ in _COLOURED:
        if colour := getattr(args, option):
            tips = args.tips if option == "hair" else None
            steps.append(_recoloured(region, colour, tips, args.strength))
    if args.privacy:
        steps.append(_hidden(args.privacy.replace("-", " "), (args.area or "face").replace("-", " ")))
    if args.background:
        steps.append(_with_background(args.background, args.radius))
    return steps


def _recoloured(region: str, colour: str, tips: str | None, strength: float) -> _Step:
    def step(image: Tensor, parsing: Parsing) -> Tensor:
        from faceparse_core.edits import recolour

        return recolour(image, _refined(image, parsing, region), colour, tips=tips, strength=strength)

    return step


def _hidden(way: str, area: str) -> _Step:
    def step(image: Tensor, parsing: Parsing) -> Tensor:
        from faceparse_core.edits import hidden_area, hide

        mask = hidden_area(parsing.labels, parsing.faces, area=area)
        return hide(image, mask, parsing.faces, way=way, labels=parsing.labels)

    return step


def _with_background(new: str | Path, radius: float) -> _Step:
    def step(image: Tensor, parsing: Parsing) -> Tensor:
        from faceparse_core import masks
        from faceparse_core.edits import blur_background, replace_background

        person = _refined(image, parsing, "person")
        if new == "transparent":
            return masks.cut_out(image, person)
        if new == "blur":
            return blur_background(image, person, radius=radius)
        return replace_background(image, person, new)

    return step


def _refined(image: Tensor, parsing: Parsing, region: str) -> Tensor:
    """The soft mask of a region, its edge where the image's is; hair by its strands."""
    from faceparse_core import masks

    one_head = region == "hair" and len(parsing.faces[0]) == 1
    return masks.refine(
        image,
        parsing.mask(region, soft=True),
        hair=region in ("hair", "person"),
        method="network" if one_head else "guided",
    )


def _edit_files(args: argparse.Namespace, inputs: list[Path], steps: list[_Step], file: Path | None) -> int:
    import torch
    from tqdm import tqdm

    from faceparse_core import images as pictures

    parser = face_parser(args)
    outputs = Outputs(inputs, force=args.force)
    failed = 0
    for path in tqdm(inputs, unit="image", disable=None if len(inputs) > 1 else True):
        target = file or (args.out or path.parent) / f"{path.stem}.edited.png"
        try:
            outputs.require(target)
            with enough_memory("it cannot be edited"), torch.inference_mode():
                given = pictures.load(path)[0]
                parsing = parser.parse(given)
                image = (given.float() / 255 if given.dtype == torch.uint8 else given)[None]
                for step in steps:
                    image = step(image, parsing)
                pictures.save(image[0], target)
            outputs.note(target, path)
            tqdm.write(f"{path}: {_seen(parsing)} -> {target}")
        except (ValueError, OSError, MemoryError) as error:  # of this picture: the rest goes on
            failed += 1
            print(f"faceparse: {path}: {str(error) or type(error).__name__}", file=sys.stderr)
    if failed and len(inputs) > 1:
        print(f"faceparse: {failed} of {len(inputs)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def _seen(parsing: Parsing) -> str:
    count = len(parsing.faces[0])
    return "no face" if not count else "1 face" if count == 1 else f"{count} faces"


def _colour(text: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no colour: write it as '#7a1f2b', or by a name such as 'navy'"
        ) from error
    return text


def _background(text: str) -> str | Path:
    """``--background``: a word, a colour, or the file of a picture."""
    if text in ("blur", "transparent"):
        return text
    if os.path.isfile(text):
        return Path(text)
    try:
        return _colour(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither 'blur' nor 'transparent', nor a colour, nor the file of a picture"
        ) from error
