"""The training clock: seconds reserved for calibration, and when training ends. Importing it loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def calibration_reserve(recipe: Spec[Recipe]) -> float | None:
    """Seconds of the training clock that a recipe reserves for calibration.

    Returns 0 without calibration or without a time limit, and None if the recipe wants the reserve measured.
    """
    settings = recipe()
    if settings.calibrate is None or settings.train().seconds <= 0:
        return 0.0
    return settings.calibrate().reserve


def training_time_limit(recipe: Spec[Recipe], reserve: float) -> float:
    """Seconds after which training ends, so that `reserve` seconds of the training clock are left; 0 is no limit.

    Raises `RecipeError` if the reserve takes up the whole training clock.
    """
    seconds = recipe().train().seconds
    if 0 < seconds <= reserve:
        raise RecipeError(
            f"{reserve:.3g} s of train.seconds={seconds:g} are reserved for calibration: none are left to train",
            where="calibrate.reserve",
            hint=f"set train.seconds above {reserve:.3g}, or calibrate on fewer batches",
        )
    return seconds - reserve if seconds else 0.0
