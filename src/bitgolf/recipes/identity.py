"""What makes two recipes, or the training of two recipes, the same. Importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitgolf.config.spec import Spec
from bitgolf.recipes.time_limit import calibration_reserve

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def recipe_hash(recipe: Spec[Recipe]) -> str:
    """The hash of what a recipe does: its name and what was published of it do not count."""
    return recipe.replace(name="", published=None).hash


def training_key(recipe: Spec[Recipe]) -> list[Any]:
    """What of a recipe decides its training, for the key of that stage: the same on every machine, so for a reserve that
    is measured, what it is measured on."""
    whole, reserve = recipe.to_json(), calibration_reserve(recipe)
    kept = whole["calibrate"] if reserve is None else reserve
    return [whole["model"], whole["train"], whole["average"], kept]
