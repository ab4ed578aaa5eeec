"""The pages of web/ in a real browser, served from this machine, without any network.

``CHROMIUM`` names the browser: ``CHROMIUM=$(which chromium) python -m pytest tests/browser``. Needed are Node with the
packages of ``web/`` (``npm ci`` there) and the extra ``browser``. Where it is not set, these tests are skipped; where
it is, whatever else is missing fails them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
SAMPLE = ROOT / "samples" / "closeup.jpg"


@pytest.fixture(scope="session")
def chromium() -> str:
    if not os.environ.get("CHROMIUM"):
        pytest.skip("CHROMIUM is not set: it names the browser to test in")
    return os.environ["CHROMIUM"]


@pytest.fixture(scope="session")
def site(chromium) -> Iterator[str]:
    """The address of what `npm run demo` serves."""
    python = {"PYTHON": sys.executable, "PORT": "0"}
    vendored = subprocess.run(
        ["node", "tools/vendor.js"], cwd=WEB, env=os.environ | python, capture_output=True, text=True
    )
    if vendored.returncode:
        pytest.fail(f"npm run vendor failed:\n{vendored.stdout}{vendored.stderr}")
    server = subprocess.Popen(
        ["node", "tools/serve.js"], cwd=WEB, env=os.environ | python, stdout=subprocess.PIPE, text=True
    )
    try:
        yield re.search(r"http://[\d.:]+", server.stdout.readline()).group()
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")  # not longer: while Playwright runs, no other test could use asyncio
def browser(chromium, tmp_path_factory) -> Iterator:
    """Chromium with a camera that shows the sample portrait."""
    from playwright.sync_api import sync_playwright

    film = tmp_path_factory.mktemp("camera") / "portrait.mjpeg"
    film.write_bytes(2 * SAMPLE.read_bytes())
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags.append(f"--use-file-for-fake-video-capture={film}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium has none for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, site) -> Iterator[Callable]:
    """Opens a page of the site; afterwards the test fails if it asked any other host, or had an error.

    ``open_page("/demo/", errors=True)`` allows errors; ``routes`` are answered as given; other options are Playwright's
    for a context.
    """
    contexts, asked, problems = [], [], []

    def open_one(path: str, *, errors: bool = False, routes: dict | None = None, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        context.set_default_timeout(180_000)  # a busy machine may be slow
        page = context.new_page()
        # Of the page and of its workers.
        context.on("request", lambda request: asked.append(request.url))
        if not errors:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        for pattern, answer in (routes or {}).items():
            context.route(pattern, answer)
        page.goto(path if path.startswith("http") else site + path)
        page.asked = asked
        return page

    yield open_one
    for context in contexts:
        context.close()
    outside = [url for url in asked if urlsplit(url).scheme not in ("blob", "data") and not url.startswith(site)]
    assert not outside, "the page asked other hosts"
    assert not problems


@pytest.fixture
def demo(open_page) -> Demo:
    return Demo(open_page("/demo/"))


@dataclass
class Demo:
    """The demo page, and what tests do with it often."""

    page: object

    def parse(self, file: str | Path | None = None) -> Demo:
        """Parses a file, or the sample by its button, and waits for the result."""
        if file is None:
            self.page.click("#sample")
        else:
            self.page.set_input_files("#file", str(file))
        return self.wait()

    def wait(self) -> Demo:
        self.page.wait_for_selector("#view:not([hidden])")
        self.page.wait_for_function("() => !document.getElementById('busy').textContent")
        return self

    def download(self, kind: str) -> tuple[str, Image.Image]:
        """The name and the picture that the button gives."""
        with self.page.expect_download() as saving:
            self.page.click(f"[data-file={kind}]")
        return saving.value.suggested_filename, Image.open(saving.value.path())

    def colour_at(self, x: float, y: float) -> list[int]:
        """What lies over the picture there (0..1), RGBA."""
        return self.page.evaluate(
            """([x, y]) => { const c = document.getElementById("overlay");
            return [...c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data]; }""",
            [x, y],
        )

    def tab_to(self, selector: str) -> None:
        """Presses Tab until this has the focus."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        pytest.fail(f"Tab does not reach {selector}")

    def move_to(self, x: float, y: float) -> None:
        box = self.page.locator("#overlay").bounding_box()
        self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def text(self, name: str) -> str:
        return self.page.text_content(f"#{name}").strip()

    def chosen(self) -> set[int]:
        return {
            int(i)
            for i in self.page.eval_on_selector_all(
                "#labels li:has(input:checked)", "rows => rows.map(row => row.dataset.label)"
            )
        }
