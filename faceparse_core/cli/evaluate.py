"""``faceparse evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from faceparse_core.cli.files import Outputs
from faceparse_core.cli.options import add_model_options, face_parser


def evaluate(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse evaluate",
        description="Measures a model on labelled portraits: F1 and IoU by label, their means, pixel accuracy.",
    )
    parser.add_argument(
        "data",
        metavar="FOLDER[,told=hair]",
        help="folder with images/, masks/ and lists of names such as val.txt; told=hair: its masks tell hair alone",
    )
    parser.add_argument("--split", default="val", help="which list of names: val (default), train …")
    parser.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw which labels are taken for which")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite FILE.png if it is not from faceparse, too")
    add_model_options(parser)
    args = parser.parse_args(argv)
    from faceparse_core.training import evaluate as measuring

    if args.confusion:
        Outputs(force=args.force).require(args.confusion)  # before the work is done
    parser = face_parser(args)
    confusion = measuring.evaluate(parser, args.data, args.split)
    if args.json:
        print(json.dumps(measuring.figures(confusion), indent=2))
    else:
        print(f"{parser} on {args.split} of {args.data}")
        print(measuring.table(confusion))
    if args.confusion:
        from faceparse_core import images as pictures

        pictures.save(measuring.confusion_picture(confusion), args.confusion)
        print(f"confusion: {args.confusion}", file=sys.stderr)
    return 0
