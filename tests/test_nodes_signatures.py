"""The stand-in knows no more than ComfyUI: its names and signatures are compared with those of a real one."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

STANDIN = Path(__file__).parent / "comfy_standin"
COMFYUI = os.environ.get("COMFYUI_PATH")

MODULES = (
    "folder_paths",
    "server",
    "comfy.utils",
    "comfy.model_management",
    "comfy.model_patcher",
    "comfy_api.latest",
    "comfy_api.latest._io",
    "comfy_api.latest._ui",
)

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH does not name a ComfyUI to compare with")


class Scope:
    """The names of a parsed module or class, those of its bases included. Nothing of ComfyUI is imported."""

    def __init__(self, node: ast.AST, module: Scope | None = None):
        self.node, self.module = node, module or self
        self.names = {}
        for part in node.body:
            self._add(part)
        if isinstance(node, ast.ClassDef):  # what its methods set on the class or on themselves
            for part in ast.walk(node):
                for target in part.targets if isinstance(part, ast.Assign) else []:
                    owner, _, name = ast.unparse(target).rpartition(".")
                    if owner in ("self", node.name):
                        self.names.setdefault(name, part)

    def _add(self, part: ast.AST) -> None:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.names[part.name] = part
        elif isinstance(part, (ast.Assign, ast.AnnAssign)):
            for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                self.names[ast.unparse(target)] = part
        elif isinstance(part, (ast.ImportFrom, ast.Import)):
            self.names |= {alias.asname or alias.name: part for alias in part.names}
        elif isinstance(part, (ast.If, ast.Try)):
            for inner in part.body:
                self._add(inner)

    def find(self, name: str) -> ast.AST | None:
        """What the name, possibly dotted, stands for; in a class also if a base has it."""
        first, _, rest = name.partition(".")
        found = self.names.get(first)
        for base in getattr(self.node, "bases", []):
            found = found or (self.module.scope(ast.unparse(base)) or Scope(ast.Module([], []))).find(first)
        if not rest or found is None:
            return found
        return Scope(found, self.module).find(rest)

    def scope(self, name: str) -> Scope | None:
        node = self.find(name)
        return Scope(node, self.module) if isinstance(node, ast.ClassDef) else None


def parameters(function: ast.AST | None, of: Scope) -> dict[str, str | None]:
    """Parameter -> default as text, or None if it must be given."""
    if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = [*function.args.posonlyargs, *function.args.args]
        defaults = [None] * (len(arguments) - len(function.args.defaults)) + function.args.defaults
        pairs = list(zip(arguments, defaults, strict=True))
        pairs += list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True))
        return {
            argument.arg: default and ast.unparse(default)
            for argument, default in pairs
            if argument.arg not in ("self", "cls")
        }
    fields = [part for part in of.node.body if isinstance(part, ast.AnnAssign)]  # a dataclass
    return {ast.unparse(part.target): part.value and ast.unparse(part.value) for part in fields}


def compare(ours: Scope, theirs: Scope, path: str) -> None:
    for name, node in ours.names.items():
        where = f"{path}.{name}"
        if name.startswith("_") and name != "__init__" or name in ("io_type", "__all__"):
            continue
        real = theirs.find(name)
        assert real is not None, f"{where}: there is none in ComfyUI"
        if isinstance(node, ast.ClassDef):
            compare(Scope(node, ours.module), Scope(real, theirs.module), where)
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                check(parameters(None, Scope(node)), parameters(None, Scope(real)), where)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            check(parameters(node, ours), parameters(real, theirs), where)


def check(ours: dict, theirs: dict, where: str) -> None:
    for name, default in ours.items():
        assert name in theirs, f"{where}: ComfyUI knows no {name}"
        assert default == theirs[name], f"{where}: {name} is {theirs[name]} in ComfyUI, not {default}"
    given = [name for name, default in ours.items() if default is None]
    needed = [name for name, default in theirs.items() if default is None]
    assert given == needed, f"{where}: ComfyUI needs {needed}"


def source(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_the_stand_in_knows_no_more_than_comfyui(module):
    ours, theirs = (Scope(ast.parse(source(root, module).read_text())) for root in (STANDIN, Path(COMFYUI)))
    compare(ours, theirs, module)
