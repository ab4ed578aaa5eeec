"""Options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="auto", help="auto, segformer-b5, lite, a folder, a .safetensors or .onnx file"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--resolution", type=int, help="side of the square that the network sees (512)")
    parser.add_argument(
        "--fit", default="auto", choices=("auto", "stretch", "pad"), help="how pictures are brought to it"
    )


def face_parser(args):
    from faceparse_core.parser import FaceParser

    return FaceParser(args.model, args.device, args.precision, resolution=args.resolution, fit=args.fit)


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """What takes a whole number from ``least`` on, to ``most``, from the command line."""
    bounds = f"from {least:,} on" if most is None else f"from {least:,} to {most:,}"

    def number(text: str) -> int:
        is_one = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_one or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number {bounds}")
        return int(text)

    return number


def face_or(*words: str) -> Callable[[str], str | int]:
    """What takes one of these words or the number of a face from the command line."""

    def face(text: str) -> str | int:
        if text in words:
            return text
        if not (text.isascii() and text.isdecimal()):
            raise argparse.ArgumentTypeError(f"'{text}' is neither {', '.join(words)} nor a number from 0 on")
        return int(text)

    return face


def counted(faces: int) -> str:
    """So many faces, in words."""
    return "no face" if not faces else "1 face" if faces == 1 else f"{faces} faces"
