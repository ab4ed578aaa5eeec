"""The command line: ``faceparse portrait.jpg`` and its companions.

Exit code 0: done; 1: something failed; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from faceparse_core import __version__
from faceparse_core.labels import LABELS, resolve

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_OUTPUTS = ("labels", "overlay", "mask", "cutout")  # STEM.labels.png …: never taken for input

_EPILOG = """\
examples:
  faceparse portrait.jpg                              labels and overlay beside the picture
  faceparse portrait.jpg --region hair -o hair.png    a mask: white is hair
  faceparse portrait.jpg --region hair --refine --cutout -o hair.png      the hair alone, without its background
  faceparse portrait.jpg --region "face - eyes" --grow 4 --feather 12     a mask for painting over
  faceparse group.jpg --region hair --face each       group.mask.0.png …: a mask for each face, the largest first
  faceparse photos/ --out parsed/                     every picture of a folder

regions:
  names of labels and groups joined by + and -, such as "face - eyes - lips"; left and right are the subject's;
  also forehead, cheeks, left cheek, right cheek, chin, under eyes and t-zone, which are drawn on each face

other commands (each has its own --help):
  faceparse models                what is there, and where
  faceparse download segformer-b5 fetch the published model
  faceparse evaluate DATA         measure a model on labelled portraits
  faceparse train DATA --out RUN  train or fine-tune
  faceparse data KIND DIR --out DATA  bring a public data set into the layout for training
  faceparse export lite --out DIR write it as ONNX, for ONNX Runtime and Transformers.js
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "models": _models,
        "download": _download,
        "train": _train,
        "data": _data,
        "evaluate": _evaluate,
        "export": _export,
    }
    logger = logging.getLogger("faceparse")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("faceparse: %(message)s"))
    logger.addHandler(handler)
    try:
        if argv and argv[0] in commands:
            return commands[argv[0]](argv[1:])
        return _parse(argv)
    except KeyboardInterrupt:
        print("faceparse: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return 1
    except _expected_errors() as error:
        print(f"faceparse: {error}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is for the user. CheckpointError is only there once its module is loaded."""
    checkpoints = sys.modules.get("faceparse_core.checkpoints")
    return (ValueError, OSError, ImportError, *((checkpoints.CheckpointError,) if checkpoints else ()))


# ---------------------------------------------------------------------------------------------------- parse


def _parse(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse",
        description="Face parsing: labels, masks and cut-outs of skin, hair, eyes, lips … from pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, and folders of pictures")
    parser.add_argument("-o", "--out", type=Path, help="file to write with --region and one picture; else a folder")
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
        type=_face,
        metavar="WHOSE",
        help="with --region, whose: all (default), largest, a number from 0 (the largest), or each: one file a face",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_model_options(parser)
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
    inputs = _inputs(args.images)
    one_file = args.out is not None and args.region and args.out.suffix and not args.out.is_dir()
    if one_file and (len(inputs) > 1 or Path(args.images[0]).is_dir()):
        parser.error(f"--out {args.out} is one file, but there are {len(inputs)} pictures: give a folder")
    if not one_file and args.out is not None:
        if args.out.is_file():
            parser.error(f"--out {args.out} is a file; without --region a folder is written to")
        args.out.mkdir(parents=True, exist_ok=True)
    return _parse_files(args, inputs, args.out if one_file else None)


def _parse_files(args: argparse.Namespace, inputs: list[Path], file: Path | None) -> int:
    from tqdm import tqdm

    parser = _parser(args)
    if not args.json:
        print(f"{parser.checkpoint.name} on {parser.device}, {parser.precision}, {parser.resolution} pixels")
    many = len(inputs) > 1
    results, failed, written = [], [], {}
    for path in tqdm(inputs, unit="image", disable=None if many else True):
        try:
            result = _parse_one(args, parser, path, file, written)
        except (ValueError, OSError, MemoryError) as error:
            failed.append({"image": str(path), "error": str(error) or type(error).__name__})
            continue
        results.append(result)
        if not args.json:
            tqdm.write(_summary(result) if many else _table(result))
    if args.json:
        run = {"model": parser.checkpoint.name, "device": str(parser.device), "precision": parser.precision}
        print(json.dumps({**run, "images": results, "failed": failed}, indent=2))
    for failure in failed:
        print(f"faceparse: {failure['image']}: {failure['error']}", file=sys.stderr)
    if failed and many:
        print(f"faceparse: {len(failed)} of {len(inputs)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def _parse_one(args, parser, path: Path, file: Path | None, written: dict[Path, Path]) -> dict:
    """Parse one picture, write its files and return its figures."""
    from faceparse_core import images as pictures

    folder = args.out if args.out is not None and file is None else path.parent
    kinds = (("cutout" if args.cutout else "mask"),) if args.region else ("labels", "overlay")
    start = time.perf_counter()
    image = pictures.load(path)[0]
    parsing = parser.parse(image, faces=args.faces)
    areas = parsing.areas[0].tolist()
    seconds = time.perf_counter() - start
    faces = parsing.faces[0]
    files = {kind: file or folder / f"{path.stem}.{kind}.png" for kind in kinds}
    if args.face == "each":
        ((kind, target),) = files.items()
        files = {f"{kind} {face.index}": target.with_suffix(f".{face.index}{target.suffix}") for face in faces}
    for target in files.values():
        if target.resolve() == path.resolve():
            raise ValueError(f"{target} would overwrite the picture itself: give another --out")
        if target in written:
            raise ValueError(
                f"{target} was already written for {written[target]}: rename one, or parse it into another --out"
            )

    for kind, target in files.items():
        pictures.save(_picture(kind, args, parsing, image), target)
        written[target] = path
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
    from faceparse_core import masks, matting

    kind, _, number = kind.partition(" ")
    face = int(number) if number else args.face
    mask = parsing.mask(args.region, soft=args.soft or args.refine, face=face)
    if args.refine:
        region, hair = set(resolve(args.region).ids), set(resolve("hair").ids)
        one_head = face != "all" or len(parsing.faces[0]) == 1
        method = "network" if region == hair and one_head else "guided"
        mask = matting.refine(image, mask, hair=hair <= region, method=method)
    mask = masks.edit(mask, grow=args.grow, feather=args.feather)
    return (matting.cut_out(image, mask) if kind == "cutout" else mask)[0]


def _face(text: str) -> str | int:
    """``--face``: all, each, largest or the number of a face."""
    if text in ("all", "each", "largest"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither all, each, largest nor a number from 0 on")
    return int(text)


def _inputs(names: Sequence[str]) -> list[Path]:
    """The pictures that are meant: files as they are given, and what lies in folders, our own outputs left out."""
    inputs: list[Path] = []
    for path in map(Path, names):
        if not path.is_dir():
            inputs.append(path)
            continue
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in _PICTURES and not _is_output(p))
        if not found:
            raise FileNotFoundError(f"{path} holds no pictures ({', '.join(_PICTURES)})")
        inputs += found
    return list(dict.fromkeys(inputs))


def _is_output(path: Path) -> bool:
    stem = Path(path.stem)
    if stem.suffix.removeprefix(".").isdecimal():  # STEM.mask.0.png: of one face
        stem = Path(stem.stem)
    return path.suffix == ".png" and stem.suffix.removeprefix(".") in _OUTPUTS


def _table(result: dict) -> str:
    """Labels with their share of the picture, the largest first."""
    lines = [f"{result['image']}: {result['width']}x{result['height']}, {_faces(result)}, {result['seconds']:.2f} s"]
    for label in sorted(result["labels"], key=lambda label: -label["pixels"]):
        lines.append(f"  {label['id']:2d}  {label['title']:<12} {label['share']:7.2%}")
    return "\n".join([*lines, *(f"{kind}: {file}" for kind, file in result["files"].items())])


def _summary(result: dict) -> str:
    return (
        f"{result['image']}: {len(result['labels'])} labels, {_faces(result)} -> {', '.join(result['files'].values())}"
    )


def _faces(result: dict) -> str:
    count = len(result["faces"])
    return "no face" if not count else "1 face" if count == 1 else f"{count} faces"


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="auto", help="auto, segformer-b5, lite, a folder, a .safetensors or .onnx file"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--resolution", type=int, help="side of the square that the network sees (512)")
    parser.add_argument(
        "--fit", default="auto", choices=("auto", "stretch", "pad"), help="how pictures are brought to it"
    )


def _parser(args):
    from faceparse_core.parser import FaceParser

    return FaceParser(args.model, args.device, args.precision, resolution=args.resolution, fit=args.fit)


# ---------------------------------------------------------------------------------------------------- models, download


def _models(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse models", description="Lists the models: where they lie, size, licence."
    )
    parser.parse_args(argv)
    from faceparse_core import checkpoints

    for row in checkpoints.known():
        print(f"{row.name:<14} {row.size / 1e6:7.1f} MB  {row.where}\n{'':27}{row.licence}")
    return 0


def _download(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="faceparse download", description="Fetches a published model.")
    parser.add_argument("name", nargs="?", default="segformer-b5", help="its name, as 'faceparse models' shows it")
    args = parser.parse_args(argv)
    from faceparse_core import checkpoints

    print(checkpoints.download(args.name))
    return 0


# ---------------------------------------------------------------------------------------------------- evaluate, train


def _evaluate(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse evaluate",
        description="Measures a model on labelled portraits: F1 and IoU by label, their means, pixel accuracy.",
    )
    parser.add_argument("data", type=Path, help="folder with images/, masks/ and lists of names such as val.txt")
    parser.add_argument("--split", default="val", help="which list of names: val (default), train …")
    parser.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw which labels are taken for which")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_model_options(parser)
    args = parser.parse_args(argv)
    from faceparse_core.training import evaluate

    face_parser = _parser(args)
    confusion = evaluate.evaluate(face_parser, args.data, args.split)
    if args.json:
        print(json.dumps(evaluate.figures(confusion), indent=2))
    else:
        print(f"{face_parser} on {args.split} of {args.data}")
        print(evaluate.table(confusion))
    if args.confusion:
        from faceparse_core import images as pictures

        pictures.save(evaluate.confusion_picture(confusion), args.confusion)
        print(f"confusion: {args.confusion}", file=sys.stderr)
    return 0


def _train(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse train",
        description="Trains or fine-tunes a network. Goes on where an interrupted run with the same options stopped.",
    )
    parser.add_argument(
        "data",
        nargs="+",
        metavar="FOLDER[,share=0.2][,told=hair][,framing=picture]",
        help="folders with images/, masks/, train.txt; the first with val.txt, too. share: how much of a batch comes "
        "from it; told=hair: its masks tell hair from the rest and nothing else; framing=picture: no portraits",
    )
    parser.add_argument("--out", required=True, help="folder of the run: config, log, last state, averaged weights")
    parser.add_argument("--arch", default="lite", help="lite (default), segformer-b0 … segformer-b5")
    parser.add_argument("--init", metavar="CHECKPOINT", help="start from this checkpoint (a name or a path)")
    parser.add_argument("--backgrounds", metavar="DIR", help="pictures without people, for scenes and as 'no face'")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument(
        "--sizes",
        type=_sizes,
        metavar="SHARE:SIZE,…",
        help="sizes of the pictures as training goes on: 0.5:256,0.3:384,0.2:512",
    )
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--balance", type=float, help="how much rare labels weigh: 0 not at all, 0.5 (default) much")
    parser.add_argument(
        "--augment",
        type=_shares,
        metavar="NAME=SHARE,…",
        help="how often what happens to a picture, 0 switches it off: scenes=0.3,covered=0,small=0.1",
    )
    parser.add_argument(
        "--freeze", type=int, metavar="STAGES", help="so many stages of lite's encoder stay as they are"
    )
    parser.add_argument("--workers", type=int, help="processes that prepare pictures (1)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    args = parser.parse_args(argv)
    from faceparse_core.training.train import TrainConfig, train

    print(train(TrainConfig.for_architecture(**vars(args))))
    return 0


def _data(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse data",
        description="Brings a public data set, as it is downloaded, into the layout that evaluate and train take. Goes "
        "on where it was interrupted.",
    )
    parser.add_argument("kind", help="celebamask-hq or lapa")
    parser.add_argument("source", type=Path, metavar="DIR", help="the unpacked download")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder to write")
    parser.add_argument("--size", type=int, default=512, help="the longer side of the pictures at most (512)")
    args = parser.parse_args(argv)
    from faceparse_core.training import datasets

    counts = datasets.convert(args.kind, args.source, args.out, args.size)
    print(f"{args.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    return 0


def _shares(text: str) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=SHARE,NAME=SHARE") from error


def _sizes(text: str) -> tuple[tuple[float, int], ...]:
    try:
        return tuple((float(share), int(size)) for share, size in (part.split(":") for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form SHARE:SIZE,SHARE:SIZE") from error


# ---------------------------------------------------------------------------------------------------- export


def _export(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse export",
        description="Writes a model as ONNX, in the layout of Transformers.js. Every file is checked against PyTorch "
        "on real pictures before; what gives other labels is not written.",
    )
    parser.add_argument("checkpoint", help="lite, segformer-b5, a folder or a .safetensors file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; an export is replaced")
    parser.add_argument(
        "--precision",
        default="all",
        choices=("all", "fp32", "fp16", "int8"),
        help="all (default); int8 has weights of 8 bits and computes in float32",
    )
    parser.add_argument(
        "--resolution",
        type=_resolution,
        default="dynamic",
        metavar="PIXELS",
        help="fix the sides of the input, a multiple of 32 such as 512; dynamic (default) takes all",
    )
    parser.add_argument("--check", metavar="FOLDER", help="pictures to check with, beside the portrait in the package")
    args = parser.parse_args(argv)
    from faceparse_core.export import PRECISIONS, export

    results = export(
        args.checkpoint,
        args.out,
        tuple(PRECISIONS) if args.precision == "all" else (args.precision,),
        resolution=args.resolution,
        check=args.check,
        report=print,
    )
    failed = [result.precision for result in results if not result.passed]
    if len(failed) < len(results):
        print(f"written: {args.out}")
    if failed:
        print(f"faceparse: {', '.join(failed)} failed the check and was not written", file=sys.stderr)
    return 1 if failed else 0


def _resolution(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or not int(text) or int(text) % 32:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'dynamic' nor a multiple of 32, such as 512")
    return int(text)
