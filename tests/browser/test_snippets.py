"""The snippets of docs/browser.md run as they stand; what they have in Python and for ONNX Runtime, too."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "closeup.jpg"
VENDOR = ROOT / "web" / "vendor"
_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript"}


def snippet(language: str, words: str, page: str = "browser.md") -> str:
    """The snippet of a page in this language that holds these words."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
    (code,) = [code for code in found if words in code]
    return code


def test_no_snippet_is_left_out():
    """Every JavaScript of every page is run below."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found = [code for page in pages for code in re.findall(r"```js\n(.*?)```", page.read_text(encoding="utf-8"), re.S)]
    assert sorted(found) == sorted(snippet("js", words) for words in ("pipeline(", "regionIds(", "createCapture("))


@pytest.fixture
def run(open_page, site):
    """Runs a snippet in a page that lies beside the portrait; returns the page and what it logged."""

    def one(code: str, *, kind: str = "module", head: str = "", done: str = "window.done", errors: bool = False):
        end = "\nwindow.done = true;" if kind == "module" else ""
        html = f'<!doctype html><link rel="icon" href="data:,">{head}<script type="{kind}">{code}{end}</script>'
        routes = {
            "**/snippet.html": lambda route: route.fulfill(body=html, content_type="text/html"),
            "**/portrait.jpg": lambda route: route.fulfill(path=SAMPLE),
            f"{site}/models/**": from_models,
            "https://cdn.jsdelivr.net/**": from_vendor,
        }
        logged = []
        routes["**/favicon.ico"] = lambda route: route.fulfill(status=204)
        page = open_page("/demo/icon.svg", routes=routes, errors=errors)
        page.on("console", lambda message: logged.append(message.text))
        page.goto(f"{site}/snippet.html")
        page.wait_for_function(f"() => {done}")
        page.asked[:] = [url for url in page.asked if "cdn.jsdelivr.net" not in url]  # answered above
        return page, logged

    return one


def from_models(route) -> None:
    file = VENDOR / route.request.url.split("/", 3)[3]
    route.fulfill(path=file) if file.is_file() else route.fulfill(status=404)


def from_vendor(route) -> None:
    """Answers for the CDN with the same files."""
    name = route.request.url.rsplit("/", 1)[1]
    file = VENDOR / "transformers" / (name if "." in name and "@" not in name else "transformers.min.js")
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": _TYPES[file.suffix]}
    route.fulfill(body=file.read_bytes(), headers=headers)


def test_python_and_onnx_runtime(site, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    shutil.copy(SAMPLE, tmp_path / "portrait.jpg")
    shutil.copytree(VENDOR / "models", tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    there: dict = {}
    exec(snippet("python", "hair = FaceParser()"), there)
    exec(snippet("python", "import onnxruntime", "onnx.md"), there)
    assert there["labels"].shape == (512, 512)
    assert ((there["labels"] == 13) == (there["hair"][0].numpy() > 0.5)).mean() > 0.99


def test_transformers_js(run):
    # Transformers.js also asks for files that other kinds of models have.
    _, logged = run(snippet("js", "pipeline("), errors=True)
    assert "hair 512 512" in logged and "skin 512 512" in logged


def test_the_parser_in_a_worker(run):
    page, logged = run(snippet("js", "regionIds(") + "\nwindow.found = [labels.length, hair.length, file.type];")
    assert logged == ["background"]
    assert page.evaluate("window.found") == [1024 * 1024, 512 * 512, "image/png"]


def test_p5_js(run):
    head = '<script src="./vendor/p5/p5.min.js"></script>'
    page, _ = run(snippet("js", "createCapture("), kind="text/javascript", head=head, done="parsing")
    assert 13 in page.evaluate("[...new Set(parsing.labels)]")
