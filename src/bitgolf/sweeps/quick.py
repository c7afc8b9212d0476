"""`--quick` for sweeps: all recipes as toys."""

from __future__ import annotations

from typing import Any

from bitgolf.config.spec import Spec
from bitgolf.recipes.quick import quick
from bitgolf.sweeps.sweep import Sweep


def quick_sweep(sweep: Spec[Sweep]) -> Spec[Sweep]:
    """The sweep with the recipe and those of the levels as toys; see `recipes.quick`."""
    factors = tuple(f.replace(levels=tuple(map(_quick_level, f["levels"]))) for f in sweep["factors"])
    return sweep.replace(recipe=quick(sweep["recipe"]), factors=factors)


def _quick_level(level: Spec[Any]) -> Spec[Any]:
    recipe = level["recipe"]
    return level if recipe is None else level.replace(recipe=quick(recipe))
