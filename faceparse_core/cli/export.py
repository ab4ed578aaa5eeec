"""``faceparse export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def export(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse export",
        description="Writes a model as ONNX, in the layout of Transformers.js. Every file is checked against PyTorch "
        "on real pictures before; what gives other labels is not written.",
    )
    parser.add_argument(
        "checkpoint",
        help="lite, segformer-b5, a folder or a .safetensors file; finder: the network that finds faces, in fp32",
    )
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
    from faceparse_core.export import PRECISIONS, export_finder
    from faceparse_core.export import export as run

    if args.checkpoint == "finder":
        export_finder(args.out, print)
        print(f"written: {args.out}")
        return 0

    results = run(
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
