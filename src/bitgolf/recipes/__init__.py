"""Recipes by name. Each recipe has a module with a function of the same name; most are derived from others by edits.

Experiments on published systems have a function each, too, in the modules of the package `experiments`. Plugins bring more recipes, by entry points, and so do the user's code files, as FILE.py:NAME. Listing and describing
recipes imports neither torch, nor plugins, nor the language of recipes; building one does.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitgolf.config.plugins import recipe_plugins
from bitgolf.errors import UsageError, error_location
from bitgolf.files import read_json
from bitgolf.report.display import current_display

if TYPE_CHECKING:
    from bitgolf.config.spec import Spec
    from bitgolf.recipes.recipe import Recipe


NOT_RECIPES = frozenset(
    {
        "check",
        "choose",
        "differences",
        "experiments",
        "foreign",
        "identity",
        "quick",
        "recipe",
        "scaling",
        "scaling_laws",
        "sizes",
        "time_limit",
    }
)
"""Modules of this package that define no recipe."""


def recipe_names() -> list[str]:
    """Names of the recipes of this package: those of this project by name, then published systems by number.

    Without experiments, see `experiment_names`.
    """
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return sorted(modules - NOT_RECIPES, key=lambda name: (pull_request(name), name))


def pull_request(name: str) -> int:
    """The number of the pull request that a recipe is named after, 0 if it is none."""
    match = re.match(r"pr(\d+)", name)
    return int(match[1]) if match else 0


def experiment_names() -> list[str]:
    """Names of the experiments on published systems, by the number of the system."""
    return sorted(_experiments(), key=lambda name: (pull_request(name), name))


def has_recipe(name: str) -> bool:
    """Whether a recipe or an experiment of this package has this name."""
    return name in recipe_names() or name in _experiments()


def describe(name: str) -> str:
    """First line of the docstring of a recipe's module or of an experiment's function, read without importing it."""
    source = _experiments()[name][1] if name in _experiments() else _source(name)
    return (ast.get_docstring(source) or "").partition("\n")[0]


def published_bpb(name: str) -> tuple[str, float] | None:
    """Published result of a recipe's packed model: (stage, bits per byte), None if there is none.

    The stage is `adapted`, else `sliding`, else `packed`, whichever was published.
    """
    figures = (published_results(name) or {"bpb": {}})["bpb"]
    return next(((stage, figures[stage]) for stage in ("adapted", "sliding", "packed") if stage in figures), None)


def published_results(name: str) -> dict[str, Any] | None:
    """The entry of a recipe in `published.json`, None if there is none.

    The figures were reported by the authors, on FineWeb's validation text, in logs and submissions; none was
    measured here. `bpb`: mean over the seeds (if only one was submitted, that one) by stage: `trained` (before
    averaging), `averaged`, `packed` (quantized model, contiguous windows), `sliding`, `adapted` (adaptation while
    scoring). `bytes`: the largest file of these seeds, including `code` bytes of the authors' code (None if unknown). `departures`:
    differences between the recipe and the original -> the `--set` assignments that remove each, "" if none can.
    """
    table = _published_table()
    if (system := (table["systems"] | table["experiments"]).get(name)) is None:
        return None
    if "departures" not in system:
        return dict(system)
    departures = (table["departures"][key] for key in system["departures"])
    return {**system, "departures": {departure["text"]: departure["undo"] for departure in departures}}


@cache
def _published_table() -> dict[str, Any]:
    return read_json(Path(__path__[0]) / "published.json")


def _source(name: str) -> ast.Module:
    return ast.parse((Path(__path__[0]) / f"{name}.py").read_text())


@cache
def _experiments() -> dict[str, tuple[str, ast.FunctionDef]]:
    """Name of an experiment -> the module that has it, and its function: each of them that has no parameters."""
    files = sorted((Path(__path__[0]) / "experiments").glob("pr*.py"))
    return {
        node.name: (file.stem, node)
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not node.args.args
    }


@cache
def get_recipe(name: str) -> Spec[Recipe]:
    """The recipe of this name, an immutable value. Raises `UsageError` if there is none.

    A recipe of this package comes before one of a plugin.
    """
    if name in (experiments := _experiments()):
        module = importlib.import_module(f"bitgolf.recipes.experiments.{experiments[name][0]}")
        experiment: Spec[Recipe] = getattr(module, name)()
        return experiment.replace(name=name, published=published_results(name))
    if name not in recipe_names():
        if plugin := recipe_plugins().get(name):
            from bitgolf.recipes.foreign import plugin_recipe

            return plugin_recipe(plugin)
        known = [*recipe_names(), *experiment_names(), *recipe_plugins()]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}; or FILE.py:NAME"
        raise UsageError(f"there is no recipe named {name!r}", hint=hint)
    recipe: Spec[Recipe] = getattr(importlib.import_module(f"bitgolf.recipes.{name}"), name)()
    return recipe.replace(published=published_results(name))


def named_folder(recipe: str) -> Path | None:
    """The folder that an argument RECIPE names; None if it names a recipe or a file.

    The name of a recipe is the recipe, even if there is a folder of this name, which `./NAME` names.
    """
    return Path(recipe) if not has_recipe(recipe) and Path(recipe).is_dir() else None


def load_recipe(recipe: str, edits: Sequence[str], *, quick: bool = False) -> Spec[Any]:
    """Load a recipe and apply edits to it, in order. quick: make it a toy first, see `quick`.

    recipe: a name, a JSON file, the folder of a run, or FILE.py:NAME, which executes the file. edits: `PATH=VALUE`, as
    given to `--set`, and `PATH+=PART`, which `--add PATH=PART` stands for. Shows a note where an edit was given by a short
    path, changes nothing, or chose a place in a chain.
    """
    from bitgolf.recipes.foreign import code_recipe, split_code_recipe

    if has_recipe(recipe) and Path(recipe).is_dir():
        current_display().message(f"{recipe} is the recipe; ./{recipe} would be the folder")
    folder = named_folder(recipe)
    path = folder / "recipe.json" if folder else Path(recipe)
    if path.suffix == ".json":
        spec = _stored_recipe(path)
    else:
        spec = code_recipe(*named) if (named := split_code_recipe(recipe)) else get_recipe(recipe)
    return edited_recipe(spec, edits, quick=quick)


def edited_recipe(recipe: Spec[Any], edits: Sequence[str], *, quick: bool = False) -> Spec[Any]:
    """Make a recipe a toy if `quick` is set, then apply edits to it; see `load_recipe`."""
    from bitgolf.config.parse import apply_edit

    spec = recipe
    if quick:
        from bitgolf.recipes import quick as toy  # imports torch

        spec = toy.quick(spec)
    for edit in edits:
        with error_location(f"--set {edit}"):
            spec, note = apply_edit(spec, edit)
        if note:
            current_display().message(f"note: {note}")
    return spec


def _stored_recipe(path: Path) -> Spec[Any]:
    from bitgolf.config.recipe_file import read_recipe

    with error_location(str(path)):
        return read_recipe(path)
