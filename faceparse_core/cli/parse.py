"""``faceparse IMAGE …``: labels, overlays, masks and cut-outs of pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from faceparse_core import __version__
from faceparse_core.cli.files import Outputs, one_file, out_path, pictures_in
from faceparse_core.cli.options import add_model_options, counted, face_or, face_parser
from faceparse_core.errors import enough_memory
from faceparse_core.labels import LABELS, resolve

_EPILOG = """\
examples:
  faceparse portrait.jpg                              labels and overlay beside the picture
  faceparse portrait.jpg --region hair -o hair.png    a mask: white is hair
  faceparse portrait.jpg --region hair --refine --cutout -o hair.png      the hair alone, without its background
  faceparse portrait.jpg --region "face - eyes" --grow 4 --feather 12     a mask for painting over
  faceparse group.jpg --region hair --face each       group.mask.0.png …: a mask for each face, the largest first
  faceparse photos/ --out parsed/                     every picture of a folder
  faceparse photos/ --out parsed/ --skip-existing     … those that an interrupted run did not come to

files:
  pictures, and files that are not from faceparse, are never overwritten without --force

regions:
  names of labels and groups joined by + and -, such as "face - eyes - lips"; left and right are the subject's;
  also forehead, cheeks, left cheek, right cheek, chin, under eyes and t-zone, which are drawn on each face

other commands (each has its own --help):
  faceparse edit portrait.jpg …   hair colour, background, glasses to try on …
  faceparse figures portrait.jpg  skin tone, eyes, mouth, tilt and turn of faces
  faceparse models                what is there, and where
  faceparse download segformer-b5 fetch the published model
  faceparse evaluate DATA         measure a model on labelled portraits
  faceparse train DATA --out RUN  train or fine-tune
  faceparse data KIND DIR --out DATA  bring a public data set into the layout for training
  faceparse export lite --out DIR write it as ONNX, for ONNX Runtime and Transformers.js
  faceparse serve                 answer requests over HTTP
  faceparse batch SOURCE --out DIR    folders and data sets of any size, into Parquet
  faceparse convert SOURCE --to FORMAT --out DIR  COCO, LabelMe, CVAT …, and back into training data
"""


def parse(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse",
        description="Face parsing: labels, masks and cut-outs of skin, hair, eyes, lips … from pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    parser.add_argument("-o", "--out", type=out_path, help="file to write with --region and one picture; else a folder")
    parser.add_argument("--region", help='write the mask of a region, such as "hair" or "face - eyes - lips"')
    parser.add_argument("--soft", action="store_true", help="soft edges from the class probabilities (with --region)")
    parser.add_argument(
        "--refine", action="store_true", help="a soft mask whose edge follows the picture, hair by its strands"
    )
    parser.add_argument(
        "--grow", type=float, default=0, metavar="PIXELS", help="move the edge outwards, inwards if negative"
    )
    parser.add_argument("--feather", type=float, default=0, metavar="PIXELS", help="make the edge so wide")
    parser.add_argument(
        "--cutout",
        action="store_true",
        help="write the picture with the region as alpha, the old background taken out of its edge; not the mask",
    )
    parser.add_argument(
        "--faces",
        default="auto",
        choices=("auto", "image"),
        help="auto (default): find the faces, parse each at its own scale; image: every picture is one portrait",
    )
    parser.add_argument(
        "--face",
        default="all",
        type=face_or("all", "each", "largest"),
        metavar="WHOSE",
        help="with --region, whose: all (default), largest, a number from 0 (the largest), or each: one file a face",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite files that are not from faceparse, too")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pictures whose files are there already: goes on where an earlier run ended",
    )
    add_model_options(parser)
    parser.add_argument("--version", action="version", version=f"faceparse {__version__}")
    if not argv:
        parser.print_help()
        return 2
    args = parser.parse_args(argv)
    edited = args.soft or args.refine or args.grow or args.feather or args.cutout or args.face != "all"
    if edited and not args.region:
        parser.error("--soft, --refine, --grow, --feather, --cutout and --face belong to --region: say which region")
    if not args.feather >= 0:
        parser.error(f"--feather {args.feather}: the width of an edge is 0 or more")
    if args.region:
        try:
            resolve(args.region)
        except ValueError as error:
            parser.error(str(error))
    inputs = pictures_in(args.images)
    file = one_file(parser, args.out, inputs, args.images) if args.region else None
    if not file and args.out is not None:
        if os.path.isfile(args.out):
            parser.error(f"--out {args.out} is a file; without --region a folder is written to")
        args.out.mkdir(parents=True, exist_ok=True)
    return _parse_files(args, inputs, file)


def _parse_files(args: argparse.Namespace, inputs: list[Path], file: Path | None) -> int:
    from tqdm import tqdm

    parser = face_parser(args)
    if not args.json:
        print(f"{parser.checkpoint.name} on {parser.device}, {parser.precision}, {parser.resolution} pixels")
    many = len(inputs) > 1
    outputs = Outputs(inputs, force=args.force)
    results, failed, skipped = [], [], []
    for path in tqdm(inputs, unit="image", disable=None if many else True):
        try:
            if args.skip_existing and _is_done(args, path, file, outputs):
                skipped.append(str(path))
                continue
            with enough_memory("it cannot be parsed"):
                result = _parse_one(args, parser, path, file, outputs)
        except (ValueError, OSError, MemoryError) as error:  # of this picture: the rest goes on
            failed.append({"image": str(path), "error": str(error) or type(error).__name__})
            continue
        if args.json:
            results.append(result)
        else:
            tqdm.write(_summary(result) if many else _table(result))
    if args.json:
        run = {"model": parser.checkpoint.name, "device": str(parser.device), "precision": parser.precision}
        print(json.dumps({**run, "images": results, "skipped": skipped, "failed": failed}, indent=2))
    elif skipped:
        print(f"{len(skipped)} of {len(inputs)} pictures were done already")
    for failure in failed:
        print(f"faceparse: {failure['image']}: {failure['error']}", file=sys.stderr)
    if failed and many:
        print(f"faceparse: {len(failed)} of {len(inputs)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def _targets(args, path: Path, file: Path | None) -> dict[str, Path]:
    """The files of a picture, by kind; with ``--face each`` those from which theirs get their names."""
    folder = args.out if args.out is not None and file is None else path.parent
    kinds = (("cutout" if args.cutout else "mask"),) if args.region else ("labels", "overlay")
    return {kind: file or folder / f"{path.stem}.{kind}.png" for kind in kinds}


def _of_face(target: Path, index: int) -> Path:
    return target.with_suffix(f".{index}{target.suffix}")


def _is_done(args, path: Path, file: Path | None, outputs: Outputs) -> bool:
    """Whether all files of a picture are there. Of several faces that of the first is written last."""
    targets = _targets(args, path, file).values()
    targets = [_of_face(target, 0) if args.face == "each" else target for target in targets]
    if not all(map(outputs.is_done, targets)):
        return False
    for target in targets:
        outputs.note(target, path)
    return True


def _parse_one(args, parser, path: Path, file: Path | None, outputs: Outputs) -> dict:
    """Parse one picture, write its files and return its figures."""
    from faceparse_core import images as pictures

    files = _targets(args, path, file)
    if args.face != "each":
        for target in files.values():  # before any work is done
            outputs.require(target)
    start = time.perf_counter()
    image = pictures.load(path)[0]
    parsing = parser.parse(image, faces=args.faces)
    areas = parsing.areas[0].tolist()
    seconds = time.perf_counter() - start
    faces = parsing.faces[0]
    if args.face == "each":
        ((kind, target),) = files.items()
        files = {f"{kind} {face.index}": _of_face(target, face.index) for face in faces}
        for target in files.values():
            outputs.require(target)
    for kind, target in reversed(files.items()):
        pictures.save(_picture(kind, args, parsing, image), target)
        outputs.note(target, path)
    height, width = parsing.sizes[0]
    return {
        "image": str(path),
        "width": width,
        "height": height,
        "labels": [
            {"id": label.id, "name": label.name, "title": label.title, "pixels": area, "share": area / (height * width)}
            for label, area in zip(LABELS, areas, strict=True)
            if area
        ],
        "faces": [vars(face) for face in faces],
        "seconds": round(seconds, 3),
        "files": {kind: str(target) for kind, target in files.items()},
    }


def _picture(kind: str, args, parsing, image):
    """What is written as STEM.KIND.png."""
    from faceparse_core import images as pictures

    if kind == "labels":
        return pictures.indexed(parsing.labels[0])
    if kind == "overlay":
        return parsing.overlay(image)[0]
    from faceparse_core import masks
    from faceparse_core.edits.several import refined

    kind, _, number = kind.partition(" ")
    face = int(number) if number else args.face
    if args.refine:
        mask = refined(image, parsing, args.region, face)
    else:
        mask = parsing.mask(args.region, soft=args.soft, face=face)
    mask = masks.edit(mask, grow=args.grow, feather=args.feather)
    return (masks.cut_out(image, mask) if kind == "cutout" else mask)[0]


def _table(result: dict) -> str:
    """Labels with their share of the picture, the largest first."""
    faces = counted(len(result["faces"]))
    lines = [f"{result['image']}: {result['width']}x{result['height']}, {faces}, {result['seconds']:.2f} s"]
    for label in sorted(result["labels"], key=lambda label: -label["pixels"]):
        lines.append(f"  {label['id']:2d}  {label['title']:<12} {label['share']:7.2%}")
    return "\n".join([*lines, *(f"{kind}: {file}" for kind, file in result["files"].items())])


def _summary(result: dict) -> str:
    faces, files = counted(len(result["faces"])), ", ".join(result["files"].values())
    return f"{result['image']}: {len(result['labels'])} labels, {faces} -> {files}"
