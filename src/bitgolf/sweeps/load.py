"""Sweeps by name: those of this package, stored ones, and those of the user's code files."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitgolf.errors import error_location
from bitgolf.recipes import has_recipe, load_recipe, named_folder, pull_request
from bitgolf.recipes.foreign import code_value, split_code_recipe

if TYPE_CHECKING:
    from bitgolf.config.spec import Spec
    from bitgolf.sweeps.sweep import Sweep

LIBRARY = Path(__file__).parent / "library"
"""Folder of the sweeps of this package: each function of a module there that has no parameters returns one."""


@cache
def _functions() -> dict[str, tuple[str, ast.FunctionDef]]:
    """Name of a sweep -> the module that has it, and its function; the modules are read, not imported."""
    return {
        node.name: (file.stem, node)
        for file in sorted(LIBRARY.glob("*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not node.args.args
    }


def sweep_names() -> list[str]:
    """Names of the sweeps of this package."""
    return sorted(_functions(), key=lambda name: (pull_request(name), name))


def describe_sweep(name: str) -> str:
    """First line of the docstring of a sweep's function."""
    return (ast.get_docstring(_functions()[name][1]) or "").partition("\n")[0]


def get_sweep(name: str) -> Spec[Sweep]:
    """The sweep of this name. Raises `KeyError` if there is none."""
    module = importlib.import_module(f"bitgolf.sweeps.library.{_functions()[name][0]}")
    return getattr(module, name)()


def load_sweep(target: str) -> Spec[Sweep]:
    """The sweep that an argument names. A recipe stands for a sweep without factors.

    target: the name of a sweep or recipe, a JSON file of one, the folder of a sweep, or FILE.py:NAME, which executes the
    file. Raises `UsageError` if there is none.
    """
    from bitgolf.sweeps.folder import read_record, stored_sweep

    if target in _functions() and not has_recipe(target):
        return get_sweep(target)
    folder = named_folder(target)
    if folder and (record := read_record(folder)):
        return stored_sweep(folder, record)
    if named := split_code_recipe(target):
        return as_sweep(code_value(*named, ("Sweep", "Recipe")))
    with error_location(target if Path(target).suffix == ".json" else ""):
        return as_sweep(load_recipe(target, ()))


def as_sweep(value: Spec[Any]) -> Spec[Sweep]:
    """A sweep as it is; a recipe as a sweep without factors."""
    from bitgolf.config.spec import part
    from bitgolf.sweeps.sweep import Sweep

    return value if value.cls is Sweep else part(Sweep, name=value["name"], recipe=value)
