"""Recipe files: the JSON form of a recipe, with the digest of its contents under the key `digest`.

A file without this key, such as one written by hand, is read as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitgolf.config.parse import from_json
from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError
from bitgolf.files import read_checked_json, write_checked_json

HINT = (
    "restore the file; if it is damaged in the folder of a run, `bitgolf run RECIPE --out FOLDER` with the recipe, text"
    ' and settings of that run writes it again; if you edited it on purpose, remove its key "digest"'
)


def write_recipe(path: Path, recipe: Spec[Any]) -> None:
    """Write a recipe atomically."""
    write_checked_json(path, recipe.to_json())


def read_recipe(path: Path) -> Spec[Any]:
    """Read a recipe.

    Raises `CorruptFileError` if the file is missing, damaged or not as its digest states, and the errors of
    `from_json`.
    """
    try:
        value = read_checked_json(path)
    except CorruptFileError as error:
        error.hint = error.hint or HINT
        raise
    return from_json(value)
