"""``faceparse convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from faceparse_core.errors import extra

_EPILOG = """\
formats:
  coco-instances, coco-panoptic, labelme, cvat (for images 1.1), png (with a class list, as Supervisely has it), data
  (for faceparse train)

examples:
  faceparse convert parsed/ --to labelme --out for-labelme/            what faceparse wrote, to be corrected by hand
  faceparse convert for-labelme/ --to data --out DATA                  … and to be trained with
  faceparse convert instances.json --images photos/ --to data --out DATA
"""


def convert(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse convert",
        description="Brings labelled pictures into a format that annotators use, or back into training data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder with images/ and masks/, of faceparse batch, of NAME.labels.png or LabelMe's .json; COCO's .json",
    )
    parser.add_argument("--to", required=True, metavar="FORMAT", help="what to write, see below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the pictures lie, if the source does not say")
    args = parser.parse_args(argv)
    from tqdm import tqdm

    from faceparse_core.export import formats

    with tqdm(unit="image", disable=None, leave=False) as bar, extra("batch"):
        count = formats.convert(args.source, args.to, args.out, images=args.images, told=lambda done: bar.update())
    print(f"{args.out}: {count} pictures")
    return 0
