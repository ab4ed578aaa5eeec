"""``faceparse batch``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from faceparse_core.cli.options import add_model_options, whole
from faceparse_core.errors import extra

_EPILOG = """\
sources:
  a folder (with what is in its folders), a pattern in quotes such as "photos/**/*.jpg" or "shards/*.tar", a text file
  with a path in each line, a .parquet file (pictures in --column), a .tar as WebDataset has it

examples:
  faceparse batch photos/ --out parsed/                   parsed/part-00000.parquet … ; the same again goes on
  faceparse batch "shards/*.tar" --out parsed/ --workers 8
  faceparse batch photos/ --out parsed/ --engine ray --gpus 0.5     on the cluster that RAY_ADDRESS names
"""


def batch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse batch",
        description="Parses folders and data sets of any size into Parquet files: path, size, faces, labels with their "
        "figures and run lengths, errors. What was interrupted or killed goes on when it is started again. Needs the "
        "extra 'batch'.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, pattern, list, .parquet or .tar")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write, new or of this command"
    )
    parser.add_argument("--shard", type=whole(1), default=1000, help="pictures in a file (1000)")
    parser.add_argument("--column", default="image", help="column of .parquet files with the pictures (image)")
    parser.add_argument("--png", action="store_true", help="write each picture's labels as an indexed PNG, too")
    parser.add_argument("--format", help="at the end, the same in a format of `faceparse convert`, in DIR/_FORMAT")
    parser.add_argument("--faces", default="auto", choices=("auto", "image"), help="image: each is one portrait")
    parser.add_argument("--engine", default="local", choices=("local", "ray"), help="processes here, or a Ray cluster")
    parser.add_argument("--workers", type=whole(1), help="processes, or Ray's actors")
    parser.add_argument("--cpus", type=_share, default=1, help="with Ray: processors of an actor (1)")
    parser.add_argument("--gpus", type=_share, default=0, help="with Ray: GPUs of an actor, such as 0.5 (0)")
    add_model_options(parser)
    args = parser.parse_args(argv)
    with extra("batch"):
        import pyarrow  # noqa: F401
    from faceparse_core.export import formats

    if args.format and args.format not in formats.WRITERS:
        parser.error(f"--format {args.format}: choose one of {', '.join(formats.WRITERS)}")
    from filelock import FileLock, Timeout
    from tqdm import tqdm

    from faceparse_core.scale import batch as work
    from faceparse_core.scale.shards import Settings

    settings = Settings(args.model, args.device, args.precision, args.resolution, args.fit, args.faces, args.png)
    if args.out.is_file():
        parser.error(f"--out {args.out} is a file: give a folder")
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.out / ".lock", timeout=0):
            left = work.plan(args.source, args.out, settings, shard=args.shard, column=args.column)
            if left.done:
                print(f"{left.done} of {left.pictures} pictures were done already", file=sys.stderr)
            failed = 0
            with tqdm(total=left.pictures, initial=left.done, unit="image", disable=None) as bar:

                def told(new: int, of_them_failed: int) -> None:
                    nonlocal failed
                    failed += of_them_failed
                    bar.update(new)

                if not left.left:
                    pass
                elif args.engine == "ray":
                    from faceparse_core.scale.cluster import run_on_ray

                    run_on_ray(left, args.workers, args.cpus, args.gpus, told)
                else:
                    work.run_here(left, args.workers, told)
    except Timeout:
        raise OSError(f"another run is writing to {args.out}: wait for its end") from None
    print(f"{args.out}: {left.pictures} pictures in {-(-left.pictures // args.shard)} files")
    if args.format:
        target = args.out / f"_{args.format}"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier run
        print(f"{target}: {formats.convert(args.out, args.format, target)} pictures")
    if failed:
        print(f"faceparse: {failed} pictures failed; the column error says why", file=sys.stderr)
    return 1 if failed else 0


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 on")
    return share
