"""``faceparse data``."""

from __future__ import annotations

import argparse
from pathlib import Path


def data(argv: list[str]) -> int:
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
