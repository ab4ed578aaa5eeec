"""``faceparse edit IMAGE …``: pictures with the person's skin, make-up, hair or background changed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from faceparse_core.cli.files import Outputs, one_file, out_path, pictures_in
from faceparse_core.cli.options import add_model_options, counted, face_or, face_parser
from faceparse_core.errors import enough_memory, number

if TYPE_CHECKING:
    from faceparse_core.edits import Look, Piece

_COLOURED = {
    "hair": "the hair",
    "brows": "the brows",
    "lips": "the lips",
    "clothes": "the clothes",
    "glasses": "the frame of the glasses",
}

_EPILOG = """\
examples:
  faceparse edit portrait.jpg --hair "#7a1f2b" -o out.jpg              hair in another colour
  faceparse edit portrait.jpg --hair "#3a2416" --tips "#d9a441"        … dark above, blond at the tips
  faceparse edit portrait.jpg --background blur --radius 3             beside the picture: portrait.edited.png
  faceparse edit portrait.jpg --background transparent -o me.png
  faceparse edit portrait.jpg --look evening --smooth 0.4              make-up on smoother skin
  faceparse edit portrait.jpg --look mine.json --strength 0.6
  faceparse edit portrait.jpg --wear hat --wear sun-glasses            drawings that come with it, on every face
  faceparse edit portrait.jpg --wear mine.png --wear hat=top-hat.png   your own glasses, and a hat of your own
  faceparse edit group.jpg --privacy pixelate -o nobody.png            every face that is found, hidden
  faceparse edit group.jpg --privacy blur --spare largest              … all but one
  faceparse edit portraits/ --background white --out edited/           every picture of a folder

colours:
  "#7a1f2b" (in quotes: the shell takes # for a comment), or a name such as navy, silver, saddlebrown

looks:
  classic, copper, evening, natural, rose, smoky, or the file of your own: a small JSON, see docs/edits.md

to wear:
  round-glasses, sun-glasses, hat, earrings, beard, face-mask, or the file of a picture with transparency: glasses, or
  what is laid on as NAME is with NAME=FILE

order:
  whatever the order of the options: skin, make-up, colours, what is worn, what is hidden, the background last
"""


def edit(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse edit",
        description="Changes people in pictures: hair colour, make-up, skin, glasses and hats to try on, background. "
        "All else stays as it is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    parser.add_argument("-o", "--out", type=out_path, help="file to write if there is one picture; else a folder")
    for option, what in _COLOURED.items():
        parser.add_argument(f"--{option}", type=_colour, metavar="COLOUR", help=f"the colour of {what}")
    parser.add_argument("--tips", type=_colour, metavar="COLOUR", help="the colour of the hair's tips (with --hair)")
    parser.add_argument("--look", type=_look, metavar="NAME|FILE", help="make-up: a look by its name, or a JSON file")
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="0..1",
        help="smoother skin with its pores, less of spots and shine, lighter under the eyes (0; 0.4 is plenty)",
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="0..1", help="how much of make-up and new colours is seen (1)"
    )
    parser.add_argument(
        "--wear", action="append", default=[], type=_piece, metavar="WHAT", help="tried on by everybody; again for more"
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
        "--spare",
        type=face_or("largest"),
        metavar="FACE",
        help="whose face --privacy leaves alone: largest, or an index",
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
    if not any(getattr(args, name) for name in (*_COLOURED, "look", "smooth", "wear", "privacy", "background")):
        parser.error("nothing is to be changed: say what, for example --hair '#7a1f2b' or --background blur")
    if args.area and not args.privacy:
        parser.error("--area is what --privacy hides: give both")
    if args.spare is not None and not args.privacy:
        parser.error("--spare is whom --privacy leaves alone: give both")
    if args.tips and not args.hair:
        parser.error("--tips is the second colour of --hair: give both")
    try:
        number("--strength", args.strength, 0, 1)
        number("--smooth", args.smooth, 0, 1)
        number("--radius", args.radius, 0, 25)
    except ValueError as error:
        parser.error(str(error))
    inputs = pictures_in(args.images)
    file = one_file(parser, args.out, inputs, args.images)
    if args.out is not None and not file:
        args.out.mkdir(parents=True, exist_ok=True)
    return _edit_files(args, inputs, file)


def _edit_files(args: argparse.Namespace, inputs: list[Path], file: Path | None) -> int:
    import torch
    from tqdm import tqdm

    from faceparse_core import images as pictures
    from faceparse_core.edits.several import Changes, change

    wanted = Changes(
        **{name: getattr(args, name) for name in _COLOURED},
        tips=args.tips,
        look=args.look,
        smooth=args.smooth,
        strength=args.strength,
        wear=args.wear,
        privacy=args.privacy and args.privacy.replace("-", " "),
        area=(args.area or "face").replace("-", " "),
        spare=args.spare,
        background=args.background,
        radius=args.radius,
    )
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
                pictures.save(change(pictures.as_float(given)[None], parsing, wanted)[0], target)
            outputs.note(target, path)
            tqdm.write(f"{path}: {counted(len(parsing.faces[0]))} -> {target}")
        except (ValueError, OSError, MemoryError) as error:  # of this picture: the rest goes on
            failed += 1
            print(f"faceparse: {path}: {str(error) or type(error).__name__}", file=sys.stderr)
    if failed and len(inputs) > 1:
        print(f"faceparse: {failed} of {len(inputs)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def _colour(text: str) -> str:
    from faceparse_core.edits import rgb

    try:
        rgb(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _look(text: str) -> Look:
    from faceparse_core.edits import look

    try:
        return look(text)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _piece(text: str) -> Piece:
    """``--wear``: a name, the file of a picture, or NAME=FILE."""
    from faceparse_core.edits import piece, piece_names

    name, equals, file = text.partition("=")
    name = name.replace("-", " ")
    try:
        if equals and name in piece_names():
            return piece(Path(file), like=name)
        return piece(name if name in piece_names() else text)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
