"""``faceparse serve``."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from faceparse_core.cli.options import add_model_options, face_parser, whole
from faceparse_core.errors import extra

_EPILOG = """\
examples:
  faceparse serve                                         http://127.0.0.1:8080/v1/parse
  curl -F image=@portrait.jpg -F regions=hair http://127.0.0.1:8080/v1/parse
  FACEPARSE_API_KEY=… faceparse serve --host 0.0.0.0      for other machines; callers send the key
"""


def serve(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="faceparse serve",
        description="Answers requests over HTTP with labels, masks, figures and overlays of pictures. Needs the extra "
        "'serve'. The key that callers must send is FACEPARSE_API_KEY in the environment.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=whole(0, 65535), default=8080, help="port (8080; 0: any that is free)")
    parser.add_argument("--queue", type=whole(1, 100_000), help="pictures inside at most (what is done in 1.5 s)")
    parser.add_argument("--batch", type=whole(1, 1024), help="pictures that go through the network together")
    parser.add_argument("--megabytes", type=whole(1, 10_000), default=32, help="largest request (32)")
    parser.add_argument("--megapixels", type=whole(1, 170), default=40, help="largest picture (40)")
    parser.add_argument("--pictures", type=whole(1, 10_000), default=16, help="most pictures in a request (16)")
    parser.add_argument("--seconds", type=whole(1, 3600), default=60, help="for sending, and for an answer (60)")
    parser.add_argument("--demo", action="store_true", help="show the demo page at / (from a checkout)")
    add_model_options(parser)
    args = parser.parse_args(argv)
    with extra("serve"):
        from faceparse_core.scale import server
    from faceparse_core.scale import asking

    key = os.environ.get("FACEPARSE_API_KEY") or None
    limits = asking.Limits(args.megabytes << 20, args.megapixels * 1_000_000, args.pictures, args.seconds)
    api = server.app(
        face_parser(args),
        limits=limits,
        room=args.queue,
        batch=args.batch,
        key=key,
        demo=_web() if args.demo else None,
    )
    if key is None and not _is_this_machine(args.host):
        print("faceparse: everybody who reaches this server may use it: set FACEPARSE_API_KEY", file=sys.stderr)
    server.run(api, args.host, args.port)
    return 0


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may be anybody's
        return False


def _web() -> Path:
    """The folder of the demo page, which is not installed with the package."""
    web = Path(__file__).parents[2] / "web"
    if not (web / "demo").is_dir():
        raise FileNotFoundError("the demo page is not part of the installed package: run this in a checkout")
    if not (web / "vendor").is_dir():
        raise FileNotFoundError(f"what the demo page needs is not there yet: run `npm run vendor` in {web}")
    return web
