"""``python -m tests.fuzz --minutes 30``: all campaigns in turn. ``--only NAME --seed N``: one case again."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.campaigns import CAMPAIGNS
from tests.fuzz.running import run, within


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), help="this campaign alone")
    parser.add_argument("--seed", type=int, help="this case alone (with --only), or the first one")
    args = parser.parse_args()
    if args.only and args.seed is not None:
        problem = run(CAMPAIGNS[args.only], args.seed)
        print("\n".join(problem) if problem else "nothing wrong")
        return 1 if problem else 0
    chosen = {args.only: CAMPAIGNS[args.only]} if args.only else CAMPAIGNS
    until, cases, failed = time.monotonic() + 60 * args.minutes, Counter(), 0
    while time.monotonic() < until:
        for name, campaign in chosen.items():
            left = max(0.0, until - time.monotonic())
            done, problems = within(min(5.0, left), campaign, (args.seed or 0) + cases[name])
            cases[name] += done
            failed += len(problems)
            for line, whole in problems:
                print(f"python -m tests.fuzz --only {line}\n{whole}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in cases.items()))
    print(f"{sum(cases.values())} cases, {failed} failed")
    if "page_server" not in CAMPAIGNS:
        print("left out: page_server, which needs node and `npm ci` in web/")
    return 1 if failed else 0


sys.exit(main())
