"""The training clock: what a recipe reserves of it for calibration, and when training ends. Importing this loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError

if TYPE_CHECKING:
    from bitgolf.recipes.recipe import Recipe


def calibration_reserve(recipe: Spec[Recipe]) -> float | None:
    """Seconds of the training clock that a recipe keeps for calibration; None where it leaves them to be measured."""
    settings = recipe()
    if settings.calibrate is None or settings.train().seconds <= 0:
        return 0.0
    return settings.calibrate().reserve


def training_time_limit(recipe: Spec[Recipe], reserve: float) -> float:
    """Seconds of the training clock after which training ends, so that so many are left of it; 0 is no limit.

    Raises `RecipeError` where nothing would be left to train in.
    """
    seconds = recipe().train().seconds
    if 0 < seconds <= reserve:
        raise RecipeError(
            f"of {seconds:g} s of training {reserve:.3g} s are reserved for calibration: none are left",
            where="calibrate.reserve",
            hint=f"set train.seconds above {reserve:.3g}, or calibrate on fewer batches",
        )
    return seconds - reserve if seconds else 0.0
