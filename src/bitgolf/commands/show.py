"""`bitgolf show`: parameters, forecasts and cautions of a recipe, without training it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from bitgolf.cautions import cautions
from bitgolf.config.spec import Spec
from bitgolf.model.build import model_size
from bitgolf.pipeline.code_size import NOT_MEASURED, CodeSize
from bitgolf.pipeline.forecast import RecipeForecast, forecast_recipe
from bitgolf.quantize.calibration.calibrate import check_calibration
from bitgolf.quantize.diagnose.qat_consistency import qat_mismatches
from bitgolf.recipes.check import check_recipe
from bitgolf.recipes.choose import Choice
from bitgolf.recipes.identity import recipe_hash
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.time_limit import calibration_reserve, training_time_limit


class RecipeSetting(msgspec.Struct, frozen=True):
    """A setting of a recipe. value: for a part, the name of its class."""

    path: str
    value: Any


class RecipeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `show --json`.

    params: number of parameters of the model. parts: names of the parts in the recipe. published: entry of
    `published.json`, None if there is none. auto: what was chosen for the recipe `auto`, None for another recipe.
    """

    name: str
    hash: str
    params: int
    params_by_role: dict[str, int]
    layers: int
    vocab: int
    forecast: RecipeForecast
    parts: list[str]
    settings: list[RecipeSetting]
    cautions: list[str]
    published: dict[str, Any] | None
    auto: Choice | None


def describe_recipe(
    recipe: Spec[Recipe], choice: Choice | None = None, *, code: CodeSize = NOT_MEASURED
) -> RecipeSummary:
    """Summary of a recipe. choice: what was chosen for the recipe `auto`. code: size of its script.

    The model and the optimizer are built on the meta device, so errors of the recipe are raised as in a run.
    """
    check_recipe(recipe)
    settings = recipe()
    check_calibration(settings.quantize, settings.calibrate)
    training_time_limit(recipe, calibration_reserve(recipe) or 0.0)
    vocab = settings.tokens().vocab
    model, roles, expected = forecast_recipe(settings, vocab, code)
    problems = [expected.over_cap] if expected.over_cap else []
    params, by_role = dict(model.named_parameters()), Counter[str]()
    for path, p in params.items():
        by_role[roles[path]] += p.numel()
    return RecipeSummary(
        name=settings.name,
        hash=recipe_hash(recipe),
        params=sum(p.numel() for p in params.values()),
        params_by_role=dict(by_role),
        layers=model_size(settings.model).layers,
        vocab=vocab,
        forecast=expected,
        parts=sorted({node.name for _, node in recipe.walk()}),
        settings=[RecipeSetting(p, v) for p, v in recipe.leaves() if p and not p.startswith("published")],
        cautions=[*problems, *cautions(recipe), *qat_mismatches(model, settings.quantize)],
        published=settings.published,
        auto=choice,
    )
