"""``faceparse train``."""

from __future__ import annotations

import argparse


def train(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse train",
        description="Trains or fine-tunes a network. Goes on where an interrupted run with the same options stopped.",
    )
    parser.add_argument(
        "data",
        help="folder with images/, masks/, train.txt and val.txt; for the finder a folder of sources of faces, such as "
        "portraits/ (a folder like that), frames/, masked/, and of backgrounds/",
    )
    parser.add_argument("--out", required=True, help="folder of the run: config, log, last state, averaged weights")
    parser.add_argument("--arch", default="lite", help="lite (default), segformer-b0 … segformer-b5, finder")
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
    parser.add_argument("--scenes", type=float, help="share of pictures with small faces over backgrounds (0.35)")
    parser.add_argument("--workers", type=int, help="processes that prepare pictures (1)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    options = vars(parser.parse_args(argv))
    if options["arch"] == "finder":
        for name in ("backgrounds", "balance", "scenes"):
            if options.pop(name) is not None:
                parser.error(f"--{name} is for networks that parse: the finder has no use for it")
        from faceparse_core.training import finder

        del options["arch"]
        given = {name: value for name, value in options.items() if value is not None}
        print(finder.train(finder.FinderConfig(**given)))
        return 0
    from faceparse_core.training.train import TrainConfig
    from faceparse_core.training.train import train as run

    print(run(TrainConfig.for_architecture(**options)))
    return 0


def _sizes(text: str) -> tuple[tuple[float, int], ...]:
    try:
        return tuple((float(share), int(size)) for share, size in (part.split(":") for part in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form SHARE:SIZE,SHARE:SIZE") from error
