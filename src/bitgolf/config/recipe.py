"""The run as one value: a tree of parts, with a JSON form and a hash."""

from __future__ import annotations

from typing import Any

from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError


@register
class Recipe:
    """Everything that decides a run. Each field is one stage's slice; `published` is what others have reported of it."""

    def __init__(
        self,
        *,
        name: str,
        text: Spec[Any],
        tokens: Spec[Any],
        model: Spec[Any],
        train: Spec[Any],
        average: Spec[Any] | None = None,
        calibrate: Spec[Any] | None = None,
        quantize: tuple[Spec[Rule], ...],
        pack: Spec[Any],
        score: tuple[Spec[Any], ...],
        proof: Spec[Any] | None = None,
        held_out: float = 0.05,
        published: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.text, self.tokens, self.held_out = name, text, tokens, held_out
        self.model, self.train, self.average = model, train, average
        self.calibrate, self.quantize, self.pack, self.score = calibrate, quantize, pack, score
        self.proof, self.published = proof, published


def identity(recipe: Spec[Recipe]) -> str:
    """The hash of what a recipe does: its name and what was published of it do not count."""
    return recipe.but(name="", published=None).hash


def reserve_of(recipe: Spec[Recipe]) -> float | None:
    """Seconds of the training clock that a recipe keeps for calibration; None where it leaves them to be measured."""
    if recipe["calibrate"] is None or recipe["train.seconds"] <= 0:
        return 0.0
    return recipe["calibrate.reserve"]


def limit_of(recipe: Spec[Recipe], reserve: float) -> float:
    """Seconds of the training clock after which training ends, so that so many are left of it; 0 is no limit.

    Raises `RecipeError` where nothing would be left to train in.
    """
    seconds = max(recipe["train.seconds"], 0.0)
    if 0 < seconds <= reserve:
        raise RecipeError(
            f"of {seconds:g} s of training {reserve:.3g} s are reserved for calibration: none are left",
            place="calibrate.reserve",
            mend=f"set train.seconds above {reserve:.3g}, or calibrate on fewer batches",
        )
    return seconds - reserve if seconds else 0.0


def training_slice(recipe: Spec[Recipe]) -> list[Any]:
    """What of a recipe decides its training, for the key of that stage: the same on every machine, so for a reserve that
    is measured, what it is measured on."""
    whole, reserve = recipe.to_json(), reserve_of(recipe)
    kept = whole["calibrate"] if reserve is None else reserve
    return [whole["model"], whole["train"], whole["average"], kept]
