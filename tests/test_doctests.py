"""The examples in the docstrings of masks, edits and labels hold, and every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

from faceparse_core import edits, labels, masks
from faceparse_core.edits import anchors, backdrop, colours, curves, figures, privacy, tone, wardrobe, wearing
from faceparse_core.masks import matting, tools

recolour = importlib.import_module("faceparse_core.edits.recolour")  # the function has the same name
EDITS = (anchors, backdrop, colours, curves, figures, privacy, recolour, tone, wardrobe, wearing)
MODULES = (labels, matting, tools, *EDITS)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_hold(module):
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


def test_every_public_function_has_an_example():
    public = [getattr(masks, name) for name in masks.__all__]
    public += [getattr(edits, name) for name in edits.__all__]
    public += [value for name, value in vars(labels).items() if not name.startswith("_")]
    functions = [
        value for value in public if inspect.isfunction(value) and value.__module__.startswith("faceparse_core.")
    ]
    assert len(functions) > 15
    assert [function.__name__ for function in functions if ">>> " not in (function.__doc__ or "")] == []
