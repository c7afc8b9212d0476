"""Cautions: warnings about settings of a recipe that are allowed but known to work badly.

Each check is one small function that yields a warning for each problem of a recipe. The evidence comes from logs and
reports of openai/parameter-golf (#NNN are its pull requests), i.e. from other data and perhaps another scale than
yours. Figures are in bits per byte (bpb), lower is better; figures with a sign are differences.
"""

from __future__ import annotations

from bitgolf.cautions import positions, quantization, scoring, training
from bitgolf.cautions.registry import CAUTIONS
from bitgolf.config.spec import Spec
from bitgolf.recipes.recipe import Recipe

MODULES = [module.__name__ for module in (quantization, positions, training, scoring)]
"""The modules with checks, in the order in which their warnings are listed. Importing them registers the checks."""


def cautions(recipe: Spec[Recipe]) -> list[str]:
    """All warnings for a recipe, without duplicates."""
    checks = sorted(CAUTIONS, key=lambda check: MODULES.index(check.__module__))
    return list(dict.fromkeys(text for check in checks for text in check(recipe)))
