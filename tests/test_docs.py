"""README.md, CONTRIBUTING.md and docs/ hold: their snippets run, their links lead somewhere.

A page is read as its reader would: the snippets of a page run in its order, Python in one namespace, beside pictures of
the names that the pages use. Commands that would install, train or need another machine are checked as far as their
words go: the files, modules, extras, scripts and options that they name must be there. JavaScript runs in a browser,
see tests/browser/test_snippets.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
EXTRAS = set(re.findall(r"^(\w+) = \[", PROJECT.split("\n[")[0], re.M))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def snippets(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, as (language, code)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.S | re.M)


# ---------------------------------------------------------------------------------------------- the snippets


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the pages speak of, offline: ``auto`` is the bundled model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEPARSE_OFFLINE", "1")
    monkeypatch.setenv("FACEPARSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(ROOT / "samples", "samples", ignore=shutil.ignore_patterns("*.labels.png", "*.overlay.png"))
    (tmp_path / "photos").mkdir()
    for name in ("portrait.jpg", "me.jpg", "photos/one.jpg", "photos/two.jpg"):
        Image.open(ROOT / "samples" / "closeup.jpg").resize((256, 256)).save(name)  # small: the words are tested
    shutil.copy(ROOT / "samples" / "portrait.jpg", "group.jpg")
    shutil.copy(ROOT / "samples" / "portrait.mp4", "clip.mp4")
    return tmp_path


@pages
def test_snippets_run(page, folder, runner, capsys):
    frame = np.asarray(Image.open(folder / "portrait.jpg").convert("RGB"))[::2, ::2]
    namespace = {"edit": lambda crops: crops, "frames": [frame, frame[:, ::-1].copy(), frame]}
    for language, code in snippets(page):
        if language == "python":
            _needs(code, namespace)
            exec(compile(code, page.name, "exec"), namespace)
        elif language == "sh" and not code.startswith("(\n"):  # a script: tests/test_workflows.py runs it
            for line in code.replace("\\\n", " ").splitlines():
                for command in re.split(r"\s+&&\s+", line.split(" #")[0].strip()):
                    if command:
                        check(command.removeprefix("(").removesuffix(")"), runner, capsys)
        else:
            assert language in ("sh", "js", ""), f"nobody runs {language}"


def _needs(code: str, namespace: dict) -> None:
    if "onnx" in code:
        pytest.importorskip("onnxruntime")


def check(command: str, runner, capsys) -> None:
    """Runs a command of a snippet, or checks what it names."""
    words = shlex.split(re.sub(r"^([A-Z_]+=(\$\(.*?\)|\S*) +)+", "", command))
    name, *words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    name, words = ("python", ["-m", "pip", *words]) if name == "pip" else (name, words)
    checks: dict[str, Callable] = {
        "faceparse": _faceparse, "python": _python, "python3": _python, "npm": _npm, "ruff": _ruff, "mypy": _mypy,
        "cd": _nothing, "git": _nothing, "pre-commit": _nothing,
    }  # fmt: skip
    assert name in checks, f"nobody runs {command}"
    checks[name](words, runner, capsys)


def _nothing(words, runner, capsys) -> None:
    pass


def _faceparse(words: list[str], runner, capsys) -> None:
    from faceparse_core.cli import main

    if words[0] in ("train", "evaluate", "data", "download") or words[0] == "export" and words[1] != "lite":
        with pytest.raises(SystemExit):
            main([words[0], "--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in words if word.startswith("-"))
    else:
        if words[0] == "export":  # one precision is enough for the snippets, and tests/test_export.py has the others
            pytest.importorskip("onnx")
            words = [*words, "--precision", "fp32"]
        assert main(words) == 0, capsys.readouterr().err
        if "-o" in words:
            assert Path(words[words.index("-o") + 1]).is_file()


def _python(words: list[str], runner, capsys) -> None:
    if words[0] != "-m":
        assert words[0] == "workflows/run.py"
        nobody = [] if "--server" in words else ["--server", "http://127.0.0.1:9"]
        words = ["http://127.0.0.1:9" if word.startswith("http://") else word for word in words[1:]]
        assert runner.main([*words, *nobody]) == 1
        said = capsys.readouterr().err
        # Wrong names, files and settings are told before a server is asked for anything.
        assert "no answer from http://127.0.0.1:9" in said, said
        return
    module, *words = words[1:]
    if module == "pip":
        _pip(words)
    elif module == "pytest":
        assert all((ROOT / word).exists() for word in words if word.startswith("tests"))
    elif module != "venv":
        source = _source(module)
        assert all(f'"{word}"' in source for word in words if word.startswith("--")), f"an option of {module}"


def _source(module: str) -> str:
    """The text of a module of ours, of the ``__main__`` of a package."""
    path = ROOT / Path(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.is_file(), f"there is no module {module}"
    return read(path)


def _pip(words: list[str]) -> None:
    assert words[0] == "install"
    for before, word in zip(words, words[1:], strict=False):
        if before in ("-c", "-r"):
            assert (ROOT / word.removeprefix("faceparse/")).is_file()
        elif word.startswith("."):
            extras = re.fullmatch(r"\.(?:\[(.*)\])?", word).group(1)
            assert not extras or set(extras.split(",")) <= EXTRAS, word


def _npm(words: list[str], runner, capsys) -> None:
    scripts = json.loads(read(ROOT / "web" / "package.json"))["scripts"]
    assert words == ["ci"] or (words[0] == "run" and words[1] in scripts)


def _ruff(words: list[str], runner, capsys) -> None:
    assert importlib.util.find_spec("ruff") and words[0] in ("check", "format")


def _mypy(words: list[str], runner, capsys) -> None:
    """What it checks stands in pyproject.toml."""
    assert importlib.util.find_spec("mypy") and not words
    assert '[tool.mypy]\nfiles = ["faceparse_core", "nodes"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------- the words


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        assert ROOT in file.parents
        if anchor:
            titles = re.findall(r"^#+ (.*)$", read(file), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pages
def test_commands_and_files_that_are_named_in_the_text_are_there(page):
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)
    for module in re.findall(r"`python -m ((?:benchmarks|faceparse_core)[\w.]*)", text):
        _source(module)
    for name in re.findall(r"`((?:faceparse_core|tests|workflows|nodes|benchmarks|web|samples)/[\w./]+)`", text):
        if not name.startswith(("web/vendor", "samples/closeup.labels", "samples/closeup.overlay")):
            assert (ROOT / name.rstrip("/")).exists() or "NAME" in name or "NODE_ID" in name, name


def test_the_front_page_is_short_and_leads_to_every_page():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 200
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT).as_posix()})" in text, f"nobody finds {page.name}"


def test_the_plan_of_the_house_is_what_is_there():
    (plan,) = (code for _, code in snippets(ROOT / "docs" / "design.md"))
    folder, named = ROOT, set()
    for line in plan.splitlines():
        words = re.match(r"( {0,2})([\w.]+/?(?:  [\w.]+/)*) {2,}|( {0,2})(\w+/)$", line)
        if words:
            indent, names = (words.group(1), words.group(2)) if words.group(2) else (words.group(3), words.group(4))
            for name in names.split():
                path = (folder if indent else ROOT) / name
                assert path.exists(), path
                named.add(path)
            folder = folder if indent else ROOT / names.split()[0]
    rooms = {path for path in (ROOT / "faceparse_core").iterdir() if not path.name.startswith("_")}
    assert rooms - {ROOT / "faceparse_core" / "py.typed"} <= named


def test_every_page_says_what_holds_of_its_labels():
    from faceparse_core.labels import GROUPS, LABELS

    text = read(ROOT / "docs" / "masks.md")
    assert all(re.search(rf"\| {label.id} \| {re.escape(label.title)}\b", text) for label in LABELS)
    assert all(f"`{group}`" in text for group in GROUPS)
