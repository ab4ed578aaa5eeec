"""The demo page in headless Chromium, on WASM: ``CHROMIUM=$(which chromium) python -m benchmarks.browser``.

Needs what the tests of the browser need (``tests/browser``), and ``npm run vendor``. Each round has a fresh browser
with empty caches: the time from the request of the page until it can be used; until its first result, with the sample
chosen as soon as that is possible; and what each further picture takes, from its choice until it is drawn. Medians.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "closeup.jpg"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--query", default="device=wasm", help="settings of the page: device=wasm&dtype=q8")
    args = arguments.parse_args()
    server = subprocess.Popen(
        ["node", "tools/serve.js"], cwd=ROOT / "web", env=os.environ | {"PORT": "0"}, stdout=subprocess.PIPE, text=True
    )
    try:
        url = re.search(r"http://[\d.:]+", server.stdout.readline()).group()
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            photo = Path(folder) / "photo.jpg"
            Image.open(SAMPLE).resize((3464, 3464)).save(photo)
            rounds = [_round(playwright, f"{url}/demo/?{args.query}", photo) for _ in range(args.rounds)]
    finally:
        server.terminate()
    print(rounds[0]["engine"])
    for what in ("interactive", "first result", "further, 512x512", "further, 12 megapixels"):
        print(f"{what:24}{statistics.median(one[what] for one in rounds):6.0f} ms")


def _round(playwright, url: str, photo: Path) -> dict:
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=flags)
    page = browser.new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_function("performance.getEntriesByName('interactive').length")
    page.evaluate("document.getElementById('sample').click()")
    page.wait_for_function("performance.getEntriesByName('result').length")
    times = {
        "interactive": page.evaluate("performance.getEntriesByName('interactive')[0].startTime"),
        "first result": page.evaluate("performance.getEntriesByName('result')[0].startTime"),
    }
    times["further, 512x512"] = statistics.median(_picture(page, SAMPLE) for _ in range(5))
    times["further, 12 megapixels"] = statistics.median(_picture(page, photo) for _ in range(3))
    times["engine"] = page.text_content("#engine").strip()
    browser.close()
    return times


def _picture(page: Page, file: Path) -> float:
    """From the choice of the file until its result is drawn."""
    page.evaluate(
        """() => { performance.clearMarks(); document.getElementById("file").addEventListener(
        "change", () => performance.mark("chosen"), { once: true, capture: true }); }"""
    )
    page.set_input_files("#file", str(file))
    page.wait_for_function("performance.getEntriesByName('result').length")
    return page.evaluate(
        "performance.getEntriesByName('result')[0].startTime - performance.getEntriesByName('chosen')[0].startTime"
    )


if __name__ == "__main__":
    main()
