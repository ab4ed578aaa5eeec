"""Options that several commands have."""

from __future__ import annotations

import argparse


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
