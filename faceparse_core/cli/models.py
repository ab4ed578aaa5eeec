"""``faceparse models`` and ``faceparse download``."""

from __future__ import annotations

import argparse


def models(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse models", description="Lists the models: where they lie, size, licence."
    )
    parser.parse_args(argv)
    from faceparse_core import checkpoints

    for row in checkpoints.known():
        print(f"{row.name:<14} {row.size / 1e6:7.1f} MB  {row.where}\n{'':27}{row.licence}")
    return 0


def download(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="faceparse download", description="Fetches a published model.")
    parser.add_argument("name", nargs="?", default="segformer-b5", help="its name, as 'faceparse models' shows it")
    args = parser.parse_args(argv)
    from faceparse_core import checkpoints

    print(checkpoints.download(args.name))
    return 0
