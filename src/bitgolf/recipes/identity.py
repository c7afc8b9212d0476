"""Identity of a recipe and of its training, as hashes and keys. Importing this module loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bitgolf.config.requirements import requirements
from bitgolf.config.spec import Spec
from bitgolf.files import json_digest
from bitgolf.recipes.time_limit import calibration_reserve, tuning_reserve

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


QUICK_SUFFIX = "-quick"
"""End of the name of a recipe that `--quick` has made a toy; see `quick`."""
QUICK_SCORE_TOKENS = 8_000
"""Held-out tokens that are scored with `--quick`, unless `--score-tokens` is given."""


def is_quick(name: str) -> bool:
    """Whether a recipe of this name was made by `--quick`, so that its figures must not be taken for results."""
    return name.endswith(QUICK_SUFFIX)


def recipe_hash(recipe: Spec[Recipe]) -> str:
    """Hash of all settings of a recipe; its name and its published results are left out.

    For a recipe with parts of the user or of plugins, the digests of their code files and their versions are included.
    """
    settings = recipe.replace(name="", published=None)
    needed = requirements(settings.to_json())
    return json_digest([settings.hash, msgspec.to_builtins(needed)]) if needed else settings.hash


def training_key(recipe: Spec[Recipe]) -> list[Any]:
    """JSON values that determine the result of training: part of the key of the stage `train`.

    The key is the same on every machine. A measured calibration reserve is not, so the settings of calibration
    stand for it. It has what the parts need besides this package, if anything.
    """
    whole, reserve = recipe.to_json(), calibration_reserve(recipe)
    calibration = whole["calibrate"] if reserve is None else reserve
    key = [whole["model"], whole["train"], whole["average"], calibration]
    if tuning := tuning_reserve(recipe):
        key.append(tuning)
    if whole["rounded_phase"]:
        key.append(whole["rounded_phase"])
    return key + msgspec.to_builtins(requirements(key))
