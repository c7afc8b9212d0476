"""The size of the code of a recipe: of the script that `export` writes for it, in its packed form."""

from __future__ import annotations

import hashlib
import sys
from functools import cache

import brotli
import msgspec

from bitgolf.config.requirements import requirements
from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.export.class_bases import module_files
from bitgolf.export.script import UNUSED_FIELDS, recipe_script
from bitgolf.files import json_digest
from bitgolf.pack.settings import Pack
from bitgolf.recipes.identity import is_quick
from bitgolf.recipes.recipe import Recipe
from bitgolf.report.display import current_display
from bitgolf.runtime.cache_files import CacheFiles, cache_folder

MOST_SIZES = 2_000
"""Sizes that the user's cache keeps, about 100 bytes each."""

_KNOWN = dict[str, int]()
"""Sizes that this process has measured or read, by key."""


class CodeSize(msgspec.Struct, frozen=True):
    """Size of the code of a recipe in bytes; None if no script can be made, and `note` says why."""

    bytes: int | None
    note: str = ""


NOT_MEASURED = CodeSize(None, "the script was not made")
NOT_COUNTED = CodeSize(None, "the cap is of the model alone; `run` and `export` make the script")


def code_size(recipe: Spec[Recipe], tokenizer: str) -> CodeSize:
    """The size of the script that `export` writes for a recipe. tokenizer: kind of its tokenizer.

    Making a script takes some seconds, so sizes are kept in the user's folder of caches, by all that a script depends
    on: the recipe, the source of the package, and the versions of Python and brotli.
    """
    if reason := no_script_because(recipe):
        return CodeSize(None, reason)
    if is_quick(recipe["name"]):
        return CodeSize(None, "a toy of --quick, whose script is not made before it is exported")
    key = _key(recipe, tokenizer)
    if key not in _KNOWN:
        _KNOWN[key] = _stored_or_measured(key, recipe, tokenizer)
    return CodeSize(_KNOWN[key])


def size_by_trainer(recipe: Spec[Recipe]) -> CodeSize:
    """The size of the script with the tokenizer that the recipe trains or reads, before there is data."""
    try:
        kind = recipe().tokens().kind
    except BitgolfError as error:
        return CodeSize(None, f"the kind of the tokenizer is unknown ({error.where}: {error.message})")
    return code_size(recipe, kind)


def size_if_counted(recipe: Spec[Recipe]) -> CodeSize:
    """`size_by_trainer` if the cap of the recipe counts the script, which otherwise is not made."""
    return size_by_trainer(recipe) if recipe().pack().counted == "model+code" else NOT_COUNTED


def check_room(pack: Pack, code: CodeSize) -> None:
    """Raise `RecipeError` if the code that counts against the cap leaves no byte of it for a model."""
    if (counted := pack.counted_code(code.bytes)) >= pack.cap:
        message = f"the script of this recipe has {counted:,} bytes, which leaves nothing of a cap of {pack.cap:,}"
        hint = "use a larger cap, or --set pack.counted=model, with which the cap limits the model alone"
        raise RecipeError(message, where="pack.cap", hint=hint)


def no_script_because(recipe: Spec[Recipe]) -> str:
    """Why no script can be made of a recipe; "" if it can."""
    if requirements(recipe.to_json()):
        return "the recipe has parts of your own code or of plugins, which a script cannot contain yet"
    if recipe().tune:
        return "the recipe tunes floats after rounding (tune), which a script cannot do yet"
    return ""


def _stored_or_measured(key: str, recipe: Spec[Recipe], tokenizer: str) -> int:
    root = cache_folder()
    files = CacheFiles(root and root / "code_sizes", MOST_SIZES)
    stored = files.read(key)
    if stored and type(size := stored.get("bytes")) is int and size > 0:
        return size
    current_display().message("making the script of the recipe to count its bytes, some seconds …")
    size = recipe_script(recipe, tokenizer).bytes
    files.write(key, {"bytes": size})
    return size


def _key(recipe: Spec[Recipe], tokenizer: str) -> str:
    settings = {name: value for name, value in recipe.to_json().items() if name not in UNUSED_FIELDS}
    versions = [*sys.version_info[:2], brotli.__version__]
    return json_digest(["code size", package_digest(), versions, tokenizer, settings])


@cache
def package_digest() -> str:
    """Digest of the source of all modules of the package."""
    found = hashlib.sha256()
    for name, file in module_files().items():
        found.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
