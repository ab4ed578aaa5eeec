"""The house: imports go downwards only, and what a room does not name in its ``__all__`` is its own business."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up: each may import what stands before it.
HOUSE = (
    "errors",
    "labels",
    "images",
    "devices",
    "models",
    "rendering",
    "masks",
    "checkpoints",
    "faces",
    "edits",
    "parsing",
    "parser",
    "export",
    "scale",
    "training",
    "cli",
    "nodes",
)
# Of every room: what the package as a whole says of itself, and loads when it is asked for.
DOOR = ("__init__", "__main__")


def files() -> Iterator[tuple[str, Path]]:
    """The rooms with their files."""
    for folder in (ROOT / "faceparse_core", ROOT / "nodes"):
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).parts
            yield ("nodes" if folder.name == "nodes" else Path(inside[0]).stem), path


def imports(source: str) -> Iterator[tuple[int, str, str | None]]:
    """The engine's modules that a file imports, inside functions too: line, module, name (None: the module itself)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "faceparse_core":
                    yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] == "faceparse_core":
            for alias in node.names:
                yield node.lineno, node.module, alias.name


def public(module: str) -> set[str]:
    """What the ``__init__`` of a room names."""
    tree = ast.parse((ROOT / "faceparse_core" / module / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if [getattr(target, "id", None) for target in targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


def wrong(room: str, source: str) -> list[str]:
    """What is wrong with the imports of a file in a room."""
    found = []
    below = HOUSE[: HOUSE.index(room)]
    for line, module, name in imports(source):
        parts = [*module.split(".")[1:], *([name] if name else [])]
        if parts == ["__version__"] or (parts and parts[0] == room):
            continue
        other, *rest = parts or ["__init__"]
        what = f"line {line}: {'.'.join(parts)}"
        if other not in below:
            found.append(f"{what} does not lie below {room}")
        elif any(part.startswith("_") for part in rest):
            found.append(f"{what} is private to {other}")
        elif rest and (ROOT / "faceparse_core" / other).is_dir() and rest[0] not in public(other):
            found.append(f"{what} is not named in {other}.__all__")
    return found


@pytest.mark.parametrize("room", HOUSE)
def test_imports_go_downwards(room):
    own = [path for name, path in files() if name == room]
    assert own
    problems = {str(path.relative_to(ROOT)): wrong(room, path.read_text(encoding="utf-8")) for path in own}
    assert not any(problems.values()), {path: found for path, found in problems.items() if found}


def test_every_file_has_its_room():
    assert {room for room, _ in files()} == {*HOUSE, *DOOR}


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("faces", "from faceparse_core.parser import FaceParser"),
        ("faces", "from faceparse_core import parsing"),
        ("models", "def late():\n    import faceparse_core.checkpoints"),
        ("parser", "from faceparse_core.faces.spots import Spot"),
        ("parser", "from faceparse_core.faces import Spot"),
        ("export", "from faceparse_core.models.lite import _TAPS"),
        ("labels", "from faceparse_core import FaceParser"),
        ("parser", "import faceparse_core"),
    ],
)
def test_a_wrong_import_is_seen(room, line):
    assert wrong(room, line)


def test_the_plan_can_be_seen_at_a_glance():
    top = [path for path in (ROOT / "faceparse_core").iterdir() if path.name not in ("weights", "__pycache__")]
    assert sum(path.is_dir() for path in top) <= 10
    assert sum(path.suffix == ".py" for path in top) <= 8
    for _, path in files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path
    for room in top:
        if room.is_dir():
            assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))), room


def test_parse_is_read_downwards():
    """One function of at most 40 lines beside its docstring, with the steps of the house in their order."""
    source = (ROOT / "faceparse_core" / "parser.py").read_text(encoding="utf-8")
    parser = next(node for node in ast.parse(source).body if getattr(node, "name", None) == "FaceParser")
    parse = next(node for node in parser.body if getattr(node, "name", None) == "parse")
    lines = source.splitlines()[parse.body[0].end_lineno : parse.end_lineno]  # after the docstring
    assert len(lines) <= 40
    steps = [line.split("#")[1].split(":")[0].strip() for line in lines if line.lstrip().startswith("#")]
    assert steps == ["load", "find", "follow", "frame", "see", "steady", "compose"]
