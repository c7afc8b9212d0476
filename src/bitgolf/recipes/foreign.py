"""Recipes that are not of this package: those of the user's code files (FILE.py:NAME), and those of plugins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitgolf.config.code_files import code_module, load_code, read_code
from bitgolf.config.plugins import Plugin
from bitgolf.config.registry import import_plugin
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError, UsageError
from bitgolf.files import require_file

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe

_CODE_RECIPE = re.compile(r"(.+\.py)(?::(.*))?", re.DOTALL)


def split_code_recipe(argument: str) -> tuple[Path, str] | None:
    """The file and the name of an argument FILE.py:NAME; None if it is something else.

    FILE.py alone stands for the recipe in it that has the name of the file.
    """
    match = _CODE_RECIPE.fullmatch(argument)
    return (Path(match[1]), Path(match[1]).stem if match[2] is None else match[2]) if match else None


def code_recipe(path: Path, name: str) -> Spec[Recipe]:
    """The recipe of this name in a code file, which is executed unless it is loaded already.

    It is a function without arguments that returns a recipe, or a recipe. Raises `UsageError` if there is none.
    """
    return code_value(path, name, ("Recipe",))


def code_value(path: Path, name: str, kinds: Sequence[str]) -> Spec[Any]:
    """The value of this name in a code file, like `code_recipe`. kinds: classes that it may be of."""
    require_file(path)
    load_code([path])
    return _value_of(code_module(read_code(path)), name, str(path), kinds)


def plugin_recipe(plugin: Plugin) -> Spec[Recipe]:
    """The recipe of a plugin. Raises `BitgolfError` if the plugin cannot be imported, or has no such recipe."""
    return _value_of(import_plugin(plugin), plugin.attribute, f"{plugin.module} of {plugin}", ("Recipe",))


def _value_of(module: ModuleType, name: str, where: str, kinds: Sequence[str]) -> Spec[Any]:
    value, kind = getattr(module, name, None), kinds[0].lower()
    if value is None:
        known = [key for key, item in vars(module).items() if _may_be_recipe(module, item)]
        hint = f"it has {', '.join(known)}" if known else f"define a function that returns a {kind}"
        raise UsageError(f"there is no {kind} named {name!r}", where=where, hint=hint)
    try:
        found: Any = value if isinstance(value, Spec) or not callable(value) else value()
    except Exception as error:
        if isinstance(error, RecipeError):
            raise
        raise UsageError(f"the {kind} {name} fails with {type(error).__name__}: {error}", where=where) from error
    if not isinstance(found, Spec) or found.name not in kinds:
        message = f"{name} is not a {kind}, or a function that returns one, but {found!r:.80}"
        raise UsageError(message, where=where, hint=f"return part({kinds[0]}, …), or an edit of a {kind}")
    return found


def _may_be_recipe(module: ModuleType, value: Any) -> bool:
    own_function = (
        callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == module.__name__
    )
    return own_function or (isinstance(value, Spec) and value.name in ("Recipe", "Sweep"))
