"""One file for each system; a recipe is a function of the same name, derived from others by edits.

Listing and describing recipes imports no torch; getting one does.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
from pathlib import Path

from bitgolf.errors import UsageError
from bitgolf.recipe import Recipe
from bitgolf.spec import Spec


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def describe(name: str) -> str:
    """The first line of the recipe's docstring, read without importing it."""
    source = (Path(__path__[0]) / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def get(name: str) -> Spec[Recipe]:
    """The recipe of that name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        mend = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise UsageError(f"there is no recipe {name!r}", mend=mend)
    return getattr(importlib.import_module(f"bitgolf.recipes.{name}"), name)()
