"""Recipe files: the JSON form of a recipe, with the digest of its contents under the key `digest`.

A file without this key, such as one written by hand, is read as it is. A recipe with parts of code files or plugins has
the list of them under the key `requires`, as artifacts do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bitgolf.config.parse import from_json
from bitgolf.config.requirements import check_requirements, convert_requirements, missing_code_located, requirements
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError
from bitgolf.files import read_checked_json, write_checked_json

HINT = (
    "restore the file; if it is damaged in the folder of a run, `bitgolf run RECIPE --out FOLDER` with the recipe, text"
    ' and settings of that run writes it again; if you edited it on purpose, remove its key "digest"'
)


REQUIRES = "requires"
"""Key of the `Requirement`s of a recipe; absent if the package's own parts suffice."""


def write_recipe(path: Path, recipe: Spec[Any]) -> None:
    """Write a recipe atomically. Raises `RecipeError` for a part whose class no other process could load."""
    plain = recipe.to_json()
    needed = requirements(plain)
    write_checked_json(path, {**plain, REQUIRES: msgspec.to_builtins(needed)} if needed else plain)


def read_recipe(path: Path) -> Spec[Any]:
    """Read a recipe.

    Raises `CorruptFileError` if the file is missing, damaged or not as its digest states, `MissingCodeError` if it needs
    a code file or a plugin that is not loaded, and the errors of `from_json`.
    """
    try:
        value = read_checked_json(path)
    except CorruptFileError as error:
        error.hint = error.hint or HINT
        raise
    if (stored := value.pop(REQUIRES, None)) is not None:
        with missing_code_located(path):
            check_requirements(convert_requirements(stored), value)
    return from_json(value)
