"""One file for each system; a recipe is a function of the same name, derived from others by edits.

Listing and describing recipes imports no torch; getting one does.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bitgolf.config.parse import from_json, set_text
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.files import read_json


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def describe(name: str) -> str:
    """The first line of the recipe's docstring, read without importing it."""
    return (ast.get_docstring(_source(name)) or "").partition("\n")[0]


def published(name: str) -> tuple[str, float] | None:
    """The stage and the bits per byte of a recipe's published result, the file's own; read without importing it."""
    figures: dict[str, float] = {}
    for node in ast.walk(_source(name)):
        pairs = [(node.arg, node.value)] if isinstance(node, ast.keyword) else []
        if isinstance(node, ast.Dict):
            pairs = [(ast.unparse(key), value) for key, value in zip(node.keys, node.values, strict=True) if key]
        figures = next((ast.literal_eval(value) for key, value in pairs if key in ("bpb", "'bpb'")), figures)
    return next(((stage, figures[stage]) for stage in ("adapted", "sliding", "packed") if stage in figures), None)


def _source(name: str) -> ast.Module:
    return ast.parse((Path(__path__[0]) / f"{name}.py").read_text())


@cache
def get(name: str) -> Spec[Recipe]:
    """The recipe of that name. Recipes are values: nothing changes one."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        mend = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise UsageError(f"there is no recipe {name!r}", mend=mend)
    return getattr(importlib.import_module(f"bitgolf.recipes.{name}"), name)()


def resolve(recipe: str, sets: Sequence[str]) -> Spec[Any]:
    """A recipe by name, by its JSON file, or by the folder of a run; then the edits of the command line, in order."""
    path = Path(recipe)
    path = path / "recipe.json" if path.is_dir() else path
    spec = from_json(read_json(path)) if path.suffix == ".json" else get(recipe)
    for assignment in sets:
        changed = set_text(spec, assignment)
        if changed == spec:
            print(f"note: --set {assignment} changes nothing, the recipe says so already", file=sys.stderr)
        spec = changed
    return spec
