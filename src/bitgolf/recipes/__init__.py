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
from typing import TYPE_CHECKING, Any

from bitgolf.config.parse import apply_assignment, from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.files import read_json

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


NOT_RECIPES = frozenset({"identity", "recipe", "time_limit"})
"""Modules here that hold no recipe but what is said of all."""


def recipe_names() -> list[str]:
    """The names of all recipes, which are those of their modules."""
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return sorted(modules - NOT_RECIPES)


def describe(name: str) -> str:
    """The first line of the recipe's docstring, read without importing it."""
    return (ast.get_docstring(_source(name)) or "").partition("\n")[0]


def published_bpb(name: str) -> tuple[str, float] | None:
    """The stage and the bits per byte of a recipe's published result, the file's own."""
    figures = (published_results(name) or {"bpb": {}})["bpb"]
    return next(((stage, figures[stage]) for stage in ("adapted", "sliding", "packed") if stage in figures), None)


def published_results(name: str) -> dict[str, Any] | None:
    """What `published.json` says of a recipe, None where nothing was published.

    The figures are the authors' own, on FineWeb's validation text, read from their logs and submissions; nothing in the
    file was measured by us. `bpb` holds the mean over the seeds (of one, the one submitted) by stage: `trained` before
    averaging, `averaged`, `packed` (the contiguous windows of the quantized model), `sliding`, `adapted` (after
    adaptation at scoring time). `bytes` is the largest file of these seeds; it counts the code, `code` of them, which is
    None where nothing tells it. `departures` maps what our recipe does otherwise to the `--set` that undoes it.
    """
    table = _published_table()
    if (system := table["systems"].get(name)) is None:
        return None
    if "departures" not in system:
        return dict(system)
    departures = (table["departures"][key] for key in system["departures"])
    return {**system, "departures": {said["text"]: said["undo"] for said in departures}}


@cache
def _published_table() -> dict[str, Any]:
    return read_json(Path(__path__[0]) / "published.json")


def _source(name: str) -> ast.Module:
    return ast.parse((Path(__path__[0]) / f"{name}.py").read_text())


@cache
def get_recipe(name: str) -> Spec[Recipe]:
    """The recipe of that name. Recipes are values: nothing changes one."""
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(recipe_names())}"
        raise UsageError(f"there is no recipe {name!r}", hint=hint)
    recipe: Spec[Recipe] = getattr(importlib.import_module(f"bitgolf.recipes.{name}"), name)()
    return recipe.replace(published=published_results(name))


def load_recipe(recipe: str, sets: Sequence[str]) -> Spec[Any]:
    """A recipe by name, by its JSON file, or by the folder of a run; then the edits of the command line, in order."""
    path = Path(recipe)
    path = path / "recipe.json" if path.is_dir() else path
    spec = from_json(read_json(path)) if path.suffix == ".json" else get_recipe(recipe)
    for assignment in sets:
        changed = apply_assignment(spec, assignment)
        if changed == spec:
            print(f"note: --set {assignment} changes nothing, the recipe says so already", file=sys.stderr)
        spec = changed
    return spec
