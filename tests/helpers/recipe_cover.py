"""A selection of recipes that covers all, for `make test`; the others run in `make test-all`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any

import pytest

from bitgolf.config.spec import Spec
from bitgolf.model.build import model_size
from bitgolf.recipes import get_recipe, recipe_names
from bitgolf.recipes.recipe import Recipe

Traits = AbstractSet[Hashable]


def part_classes(recipe: Spec[Recipe]) -> Traits:
    return {node.cls for _, node in recipe.walk()}


@cache
def covering_recipes(traits: Callable[[Spec[Recipe]], Traits]) -> tuple[str, ...]:
    """Recipes that together have every trait of any recipe: repeatedly the recipe with the most missing traits.

    Of recipes with equally many, the one with the fewest layers is taken.
    """
    names = sorted(recipe_names(), key=lambda name: model_size(get_recipe(name)().model).layers)
    own = {name: set(traits(get_recipe(name))) for name in names}
    chosen, missing = list[str](), set[Hashable]().union(*own.values())
    while missing:
        chosen.append(max(names, key=lambda name: len(own[name] & missing)))
        missing -= own[chosen[-1]]
    return tuple(chosen)


def all_but_exhaustive(chosen: Sequence[str]) -> list[Any]:
    """All recipes as parameters of a test. Those that are not chosen are marked `exhaustive`."""
    marks = {name: [] if name in chosen else [pytest.mark.exhaustive] for name in recipe_names()}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]
