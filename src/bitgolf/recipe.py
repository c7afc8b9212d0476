"""The run as one value: a tree of parts, with a JSON form and a hash."""

from __future__ import annotations

from typing import Any

from bitgolf.errors import RecipeError
from bitgolf.rules import Rule
from bitgolf.spec import Spec, register


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


def as_trained(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe as training sees it: a limit of time ends sooner by what calibration reserves of it.

    Raises `RecipeError` where nothing would be left.
    """
    seconds, reserve = recipe["train.seconds"], recipe["calibrate.reserve"] if recipe["calibrate"] else 0.0
    if seconds <= 0 or not reserve:
        return recipe
    if reserve >= seconds:
        raise RecipeError(
            f"of {seconds:g} s of training {reserve:g} s are reserved for calibration: none are left",
            place="calibrate.reserve",
            mend=f"reserve less than {seconds:g}, or set train.seconds",
        )
    return recipe.set("train.seconds", seconds - reserve)
