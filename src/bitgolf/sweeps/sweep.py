"""The class `Sweep`: many runs as one value, in the language of recipes."""

from __future__ import annotations

from typing import Literal

from bitgolf.config.ranges import CountOrZero, Seconds, Seed
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.recipes.recipe import Recipe
from bitgolf.sweeps.factors import Factor, SearchSpace, SweepVariant
from bitgolf.sweeps.gates import Gate
from bitgolf.sweeps.search.search import Grid, Search

Measure = Literal["best", "trained", "averaged", "packed", "sliding", "adapted"]


@register
class Sweep:
    """Runs of a recipe and of variants of it.

    name: of the folder of the results. recipe: the base, which all variants are compared with. factors: what is varied;
    without any, the recipe is only repeated with several seeds. edits: of all variants, before those of the levels.
    seeds: of each variant. search: which combinations of levels are run. gates: reasons to end a run early. steps,
    seconds: limit of each training, a fixed number of steps or a fixed clock; 0 for those of the recipe. measure: the
    score that is compared: `best` is the lowest of the packed model, the others are stages of scoring.
    Raises `RecipeError` for repeated or missing seeds, and for two limits.
    """

    def __init__(
        self,
        *,
        name: str,
        recipe: Spec[Recipe],
        factors: tuple[Spec[Factor], ...] = (),
        edits: tuple[str, ...] = (),
        seeds: tuple[Seed, ...] = (0, 1, 2),
        search: Spec[Search] = part(Grid),
        gates: tuple[Spec[Gate], ...] = (),
        steps: CountOrZero = 0,
        seconds: Seconds = 0.0,
        measure: Measure = "best",
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            found = ", ".join(map(str, seeds)) or "none"
            raise RecipeError(f"a sweep needs different seeds, got {found}", where="seeds")
        if steps and seconds:
            message = f"either a number of steps or a clock limits the runs, got {steps:,} steps and {seconds:g} s"
            raise RecipeError(message, where="steps", hint="set one of them to 0")
        self.name, self.seeds, self.gates = name, seeds, gates
        self.search, self.steps, self.seconds = search(), steps, seconds
        self.measure: Measure = measure
        self.space = SearchSpace(recipe, [factor() for factor in factors], edits)

    def recipe(self, variant: SweepVariant, share: float = 1.0) -> Spec[Recipe]:
        """The recipe of a variant with the limits of the sweep. share: of these limits, for a shorter training.

        Raises `RecipeError` if an edit cannot be applied.
        """
        recipe = self.space.recipe(variant)
        if self.steps:
            recipe = recipe.set("train", recipe["train"].replace(steps=self.steps, seconds=0.0))
        if self.seconds:
            recipe = recipe.set("train", recipe["train"].replace(steps=0, seconds=self.seconds))
        if share == 1:
            return recipe
        steps, seconds = recipe["train.steps"], recipe["train.seconds"]
        shorter = recipe["train"].replace(steps=max(1, round(share * steps)) if steps else 0, seconds=share * seconds)
        return recipe.set("train", shorter)
