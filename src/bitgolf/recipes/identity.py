"""Identity of a recipe and of its training, as hashes and keys. Importing this module loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitgolf.config.spec import Spec
from bitgolf.recipes.time_limit import calibration_reserve

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def recipe_hash(recipe: Spec[Recipe]) -> str:
    """Hash of all settings of a recipe; its name and its published results are left out."""
    return recipe.replace(name="", published=None).hash


def training_key(recipe: Spec[Recipe]) -> list[Any]:
    """JSON values that determine the result of training: part of the key of the stage `train`.

    The key is the same on every machine. A measured calibration reserve is not, so the settings of calibration
    stand for it.
    """
    whole, reserve = recipe.to_json(), calibration_reserve(recipe)
    calibration = whole["calibrate"] if reserve is None else reserve
    return [whole["model"], whole["train"], whole["average"], calibration]
