"""``faceparse figures IMAGE …``: skin tone, eyes, mouth, tilt and turn of faces, as text, JSON, CSV or a plot."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from faceparse_core.cli.files import Outputs, out_path, pictures_in
from faceparse_core.cli.options import add_model_options, face_parser
from faceparse_core.errors import enough_memory, number

_EPILOG = """\
examples:
  faceparse figures portrait.jpg                            in words
  faceparse figures portrait.jpg --white-balance --json     under coloured light
  faceparse figures photos/ --csv > faces.csv               a line for each face
  faceparse figures frames/ --plot curves.png --fps 25      the frames of a video, in the order of their names

figures:
  They describe pictures: no medical measure, and none of anybody's identity. What each means: docs/edits.md.
  Left and right are the subject's. The frames of a video: ffmpeg -i video.mp4 frames/%05d.png
"""
# Frames that are read at a time.
_FRAMES = 16


def figures(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse figures",
        description="Tells skin tone, how open eyes and mouth are, smile, tilt and turn of the faces in pictures. "
        "No medical measure, and none of anybody's identity.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--csv", action="store_true", help="print a table with a line for each face")
    parser.add_argument(
        "--white-balance", action="store_true", help="take a colour cast out: the surroundings are grey on average"
    )
    parser.add_argument(
        "--plot",
        type=out_path,
        metavar="PNG",
        help="the pictures are the frames of a video: faces are followed, and curves with blinks are drawn into this",
    )
    parser.add_argument("--face", type=int, default=0, metavar="NUMBER", help="whose curves, from 0, the largest (0)")
    parser.add_argument("--fps", type=float, default=25.0, metavar="RATE", help="frames in a second, for blinks (25)")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is not from faceparse, too")
    add_model_options(parser)
    if not argv:
        parser.print_help()
        return 2
    args = parser.parse_args(argv)
    try:
        number("--fps", args.fps, 0.1, 10_000)
        number("--face", args.face, 0, whole=True)
    except ValueError as error:
        parser.error(str(error))
    if args.plot and args.plot.suffix.lower() != ".png":
        parser.error(f"--plot {args.plot}: a plot is a .png")
    inputs = pictures_in(args.images)
    if args.plot:
        Outputs(inputs, force=args.force).require(args.plot)
    return _tell(args, inputs)


def _tell(args: argparse.Namespace, inputs: list[Path]) -> int:
    from faceparse_core import edits
    from faceparse_core import images as pictures

    told, failed = [], 0
    for path, found in _found(args, inputs):
        if isinstance(found, Exception):
            failed += 1
            print(f"faceparse: {path}: {str(found) or type(found).__name__}", file=sys.stderr)
            continue
        told.append((str(path), found))
        if not (args.json or args.csv):
            print(_words(str(path), found))
    names, figures = [name for name, _ in told], [found for _, found in told]
    blinks = None
    if args.plot:
        blinks = edits.blinks_of(figures, face=args.face, fps=args.fps)
        pictures.save(edits.plot(figures, face=args.face, fps=args.fps), args.plot)
    if args.json:
        answer = {"note": edits.NOTE, "images": [{"image": name, "faces": found} for name, found in told]}
        print(json.dumps(answer | ({} if blinks is None else {"blinks": blinks}), indent=2))
    elif args.csv:
        print(edits.as_csv(figures, names), end="")
    else:
        if blinks is not None:
            print(f"face {args.face}: {len(blinks)} blinks in {len(told)} frames -> {args.plot}")
        print(edits.NOTE)
    return 1 if failed else 0


def _found(args: argparse.Namespace, inputs: list[Path]) -> Iterator[tuple[Path, list[dict] | Exception]]:
    """The figures of each picture, or why there are none. With --plot faces keep their index from frame to frame."""
    import torch

    from faceparse_core import images as pictures
    from faceparse_core.edits import face_figures
    from faceparse_core.faces import Tracker

    parser, tracker = face_parser(args), Tracker() if args.plot else False
    at_once = _FRAMES if args.plot else 1
    for start in range(0, len(inputs), at_once):
        frames: list[tuple[Path, torch.Tensor]] = []
        for path in inputs[start : start + at_once]:
            try:
                frames.append((path, pictures.load(path)[0]))
            except (ValueError, OSError, MemoryError) as error:  # of this picture: the rest goes on
                yield path, error
        try:
            with enough_memory("its faces cannot be told"), torch.inference_mode():
                parsing = parser.parse([image for _, image in frames], track=tracker) if frames else ()
                for (path, image), seen in zip(frames, parsing, strict=True):
                    (found,) = face_figures(image, seen.labels, seen.faces, white_balance=args.white_balance)
                    yield path, found
        except (ValueError, OSError, MemoryError) as error:
            yield inputs[start], error


def _words(name: str, faces: list[dict]) -> str:
    """The figures of a picture, a few lines for each face."""
    lines = [f"{name}: no face"] if not faces else []
    for one in faces:
        lines.append(f"{name}: face {one['index']}")
        turn = "not told" if one["yaw"] is None else f"{one['yaw']:+.0f} (estimated)"
        lines.append(f"  tilt {one['tilt']:+.0f} degrees, yaw {turn}")
        skin, eyes, mouth = one["skin"], one["eyes"], one["mouth"]
        if skin:
            balanced = "balanced" if skin["balanced"] else "as it is"
            sure = f"{balanced}, {skin['sure']:.0%} sure"
            lines.append(f"  skin: CIELAB {skin['lab']}, ITA {skin['ita']:.0f} degrees, {skin['class']} ({sure})")
            cheeks = [(side, skin.get(f"{side} cheek")) for side in ("left", "right")]
            told = ", ".join(f"{side} cheek {cheek['ita']:.0f}" for side, cheek in cheeks if cheek)
            lines += [f"  ITA of the {told}"] if told else []
        lines.append(f"  eyes open: left {_told(eyes['left'])}, right {_told(eyes['right'])}")
        lines.append(f"  mouth open {_told(mouth['open'])}, smile {_told(mouth['smile'])}")
        lines.append("  " + ", ".join(f"{part} {share:.1%}" for part, share in one["shares"].items()))
    return "\n".join(lines)


def _told(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.2f}"
