"""Recipes by name, as values. Listing them does not import torch; building one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitgolf.api.paths import AnyPath, newest_or_named
from bitgolf.config.spec import Spec
from bitgolf.recipes import load_recipe, named_folder
from bitgolf.recipes import recipe_names as recipe_names

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def recipe(name: AnyPath) -> Spec[Recipe]:
    """Return a recipe, an immutable value from which `set` and `edit` derive others.

    name: one of `recipe_names()`, a recipe.json, the folder of a run (`./NAME` if a recipe has its name), or `latest`.
    Raises `UsageError` if there is no such recipe, and `CorruptFileError` if its file is damaged.
    """
    return load_recipe(recipe_argument(name), ())


def recipe_argument(name: AnyPath) -> str:
    """Return the name of a recipe as the command line takes it: a name or a path.

    Raises `FormatVersionError` if it is the folder of a run of another format.
    """
    argument = name if isinstance(name, str) and name != "latest" else str(newest_or_named(name))
    if folder := named_folder(argument):
        from bitgolf.pipeline.state import check_format

        check_format(folder)
    return argument
