"""The demo page in headless Chromium, on WASM: ``CHROMIUM=$(which chromium) python -m benchmarks.browser``.

Needs what the tests of the browser need (``tests/browser``), and ``npm run vendor``. Each round has a fresh browser
with empty caches: the time from the request of the page until it can be used; until its first result, with the sample
chosen as soon as that is possible; and what each further picture takes, from its choice until it is drawn. Medians.
With ``--live``: what a frame of the camera, which shows the sample, takes in the view "Edit" with each of its tools:
the edit alone, the parser alone, and how many are shown in a second.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "closeup.jpg"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--query", default="device=wasm", help="settings of the page: device=wasm&dtype=q8")
    arguments.add_argument("--live", action="store_true")
    args = arguments.parse_args()
    server = subprocess.Popen(
        ["node", "tools/serve.js"], cwd=ROOT / "web", env=os.environ | {"PORT": "0"}, stdout=subprocess.PIPE, text=True
    )
    try:
        url = re.search(r"http://[\d.:]+", server.stdout.readline()).group()
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            if args.live:
                _live(playwright, f"{url}/demo/?{args.query}", Path(folder))
                return
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


# Of the view "Edit": what is chosen of hair, lips, blur, and whether faces are hidden.
_TOOLS = {
    "nothing": ("", "", 0, False),
    "hair": ("#b5562b", "", 0, False),
    "lips": ("", "#b3121d", 0, False),
    "blurred background": ("", "", 2, False),
    "hidden faces": ("", "", 0, True),
    "all of them": ("#b5562b", "#b3121d", 2, True),
}
_FRAMES = 16


def _live(playwright, url: str, folder: Path) -> None:
    film = folder / "portrait.mjpeg"
    film.write_bytes(2 * SAMPLE.read_bytes())
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags.append(f"--use-file-for-fake-video-capture={film}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=flags)
    page = browser.new_page()
    page.set_default_timeout(180_000)
    page.goto(url)
    page.click("#camera")
    page.wait_for_selector("#view.live")
    page.click("#views >> text=Edit")
    page.evaluate(
        """() => { window.frames_ = []; new MutationObserver(() => {
        const [, parsed, edited] = /parsed in ([^(]+) .*edited in (.+)/.exec(facts.textContent) ?? [];
        if (edited) frames_.push([performance.now(), parsed, edited]);
        }).observe(facts, { childList: true, characterData: true, subtree: true }); }"""
    )
    print(page.text_content("#engine").strip())
    for name, (hair, lips, blur, hide) in _TOOLS.items():
        page.check(f"[name=hair][value='{hair}']", force=True)
        page.check(f"[name=lips][value='{lips}']", force=True)
        page.fill("#blur", str(blur))
        page.set_checked("#hide", hide)
        # The first ones may still be as it was before.
        page.evaluate("frames_.length = 0")
        page.wait_for_function(f"frames_.length > {_FRAMES + 3}")
        frames = page.evaluate("frames_")[3:]
        parsed, edited = (statistics.median(_milliseconds(one[at]) for one in frames) for at in (1, 2))
        rate = statistics.median(1000 / (after[0] - before[0]) for before, after in pairwise(frames))
        print(f"{name:24}{edited:5.0f} ms, parsed in {parsed:.0f} ms, {rate:.1f} frames a second")
    browser.close()


def _milliseconds(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"ms": 1, "s": 1000}[unit]


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
