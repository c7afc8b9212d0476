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


def tuning_reserve(recipe: Spec[Recipe]) -> float:
    """Seconds of the training clock that a recipe reserves for tuning after rounding; 0 without it or a time limit."""
    settings = recipe()
    return settings.tune().reserve if settings.tune and settings.train().seconds > 0 else 0.0


def training_time_limit(recipe: Spec[Recipe], reserve: float) -> float:
    """Seconds after which training ends, so that calibration has `reserve` seconds and tuning its own; 0 is no limit.

    Raises `RecipeError` if the reserves take up the whole training clock.
    """
    seconds, tuning = recipe().train().seconds, tuning_reserve(recipe)
    if 0 < seconds <= reserve + tuning:
        uses = "calibration and tuning" if tuning else "calibration"
        raise RecipeError(
            f"{reserve + tuning:.3g} s of train.seconds={seconds:g} are reserved for {uses}: none are left to train",
            where="tune.reserve" if tuning > reserve else "calibrate.reserve",
            hint=f"set train.seconds above {reserve + tuning:.3g}, or calibrate on fewer batches",
        )
    return seconds - reserve - tuning if seconds else 0.0
