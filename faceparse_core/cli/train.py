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
        nargs="+",
        metavar="FOLDER[,share=0.2][,told=hair][,framing=picture]",
        help="folders with images/, masks/, train.txt; the first with val.txt, too. share: how much of a batch comes "
        "from it; told=hair: its masks tell hair from the rest and nothing else; framing=picture: no portraits. For "
        "the finder one folder of sources of faces: portraits/, frames/, masked/, street/, hair/, backgrounds/",
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
    parser.add_argument(
        "--rare-labels",
        type=float,
        metavar="TIMES",
        help="how much more often pictures with hats, glasses, earrings or necklaces are drawn (1.5)",
    )
    parser.add_argument(
        "--augment",
        type=_shares,
        metavar="NAME=SHARE,…",
        help="how often what happens to a picture, 0 switches it off: scenes=0.3,covered=0,small=0.1",
    )
    parser.add_argument(
        "--blocks",
        type=_whole_numbers,
        metavar="N,N,N,N",
        help="expansions of one more block in lite's head at the strides 4, 8, 16, 32; 0 for none (the default)",
    )
    parser.add_argument(
        "--freeze", type=int, metavar="STAGES", help="so many stages of lite's encoder stay as they are"
    )
    parser.add_argument(
        "--body",
        type=float,
        metavar="SHARE",
        help="how fast the finder's body learns, of the rate: 0 (default) leaves it as it is",
    )
    parser.add_argument("--workers", type=int, help="processes that prepare pictures (1)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    options = vars(parser.parse_args(argv))
    if options["arch"] == "finder":
        given = {name: value for name, value in options.items() if value is not None and name not in ("arch", "data")}
        for name in ("backgrounds", "balance", "rare_labels", "augment", "blocks", "freeze"):
            if name in given:
                parser.error(f"--{name.replace('_', '-')} is for networks that parse: the finder has no use for it")
        if len(options["data"]) > 1:
            parser.error("the finder learns from one folder, in which its sources lie")
        from faceparse_core.training import finder

        print(finder.train(finder.FinderConfig(*options["data"], **given)))
        return 0
    if options.pop("body") is not None:
        parser.error("--body is for the finder: of lite --freeze leaves a part as it is")
    from faceparse_core.training.train import TrainConfig
    from faceparse_core.training.train import train as run

    print(run(TrainConfig.for_architecture(**options)))
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


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form N,N,N,N") from error
