"""Recipes by name, as values, and files with parts and recipes of the user. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitgolf.api.paths import AnyPath, newest_or_named, to_paths
from bitgolf.config import code_files
from bitgolf.config.spec import Spec
from bitgolf.errors import UsageError
from bitgolf.recipes import edited_recipe, load_recipe, named_folder
from bitgolf.recipes import recipe_names as recipe_names

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def recipe(
    name: AnyPath,
    *,
    quick: bool = False,
    cap: int | None = None,
    seconds: float | None = None,
    text: AnyPath | Sequence[AnyPath] = (),
    speed: float | None = None,
) -> Spec[Recipe]:
    """Return a recipe, an immutable value from which `set` and `edit` derive others.

    name: one of `recipe_names()`, an experiment that `bitgolf recipes` lists, a recipe.json, the folder of a run (`./NAME` if a recipe has its name), `latest`, or
    FILE.py:NAME, which executes the file. quick: as a toy that trains in seconds, see `bitgolf run --quick`.
    cap, seconds, text, speed: with the recipe `auto`, bytes of the artifact, seconds of training, the text of the run, and
    the training speed in operations per second, which is measured unless it is given.
    Raises `UsageError` if there is no such recipe, and `CorruptFileError` if its file is damaged.
    """
    budget = {"cap": cap, "seconds": seconds, "text": to_paths(text) or None, "speed": speed}
    given = [option for option, value in budget.items() if value is not None]
    if not given:
        return open_recipe(name, quick=quick)[1]
    if name != "auto":
        message = f"only the recipe auto takes this argument, not {name}"
        raise UsageError(message, where=given[0], hint="derive another recipe with `set`")
    from bitgolf.commands.auto import chosen_for_show
    from bitgolf.pipeline.auto_choice import auto_request
    from bitgolf.pipeline.given_inputs import GivenInputs
    from bitgolf.recipes.auto import chosen_recipe

    choice = chosen_for_show(auto_request(cap, seconds, speed), GivenInputs(to_paths(text)))
    return edited_recipe(chosen_recipe(choice), (), quick=quick)


def load_code(files: AnyPath | Sequence[AnyPath], *, any_digest: bool = False) -> None:
    """Execute Python files that define parts or recipes, in the given order, as `bitgolf --code` does.

    Nothing else executes code: an artifact or a run that needs such a file is read after this call only. any_digest: use
    a file also where what is read was made with another version of it. Raises `UsageError` if a file cannot be executed.
    """
    code_files.load_code(to_paths(files), any_digest=any_digest)


def open_recipe(given: AnyPath | Spec[Recipe], *, quick: bool = False) -> tuple[Path | None, Spec[Recipe]]:
    """Return (the folder of the run that `given` names, None for other recipes; the recipe).

    Raises `FormatVersionError` for a run of another format, and `UsageError` for `quick` with the folder of a run.
    """
    if isinstance(given, Spec):
        return None, _value(given, quick=quick)
    name = given if isinstance(given, str) and given != "latest" else str(newest_or_named(given))
    if folder := named_folder(name):
        from bitgolf.pipeline.state import check_format

        check_format(folder)
        if quick:
            cause = "quick=True makes another recipe, which is not that of the run in this folder"
            raise UsageError(cause, where=name, hint="name the recipe: a quick run has a folder of its own")
    return folder, load_recipe(name, (), quick=quick)


def _value(given: Spec[Recipe], *, quick: bool) -> Spec[Recipe]:
    """Return a recipe that was given as a value. Raises `UsageError` if it is another part."""
    from bitgolf.recipes import quick as toy
    from bitgolf.recipes.recipe import Recipe

    if given.cls is not Recipe:
        raise UsageError(f"expected a recipe, got the part {given.name}", where="recipe", hint="bitgolf.recipe(NAME)")
    return toy.quick(given) if quick else given
