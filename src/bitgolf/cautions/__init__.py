"""Known bad interactions: what is allowed, usually a mistake, and what is known of it.

One small function for each; it yields what is wrong with this recipe, or nothing. The evidence is the field's own, from
logs and reports of openai/parameter-golf (#NNN are its pull requests), on other data and at another scale than yours.
Figures are bits per byte, and differences where they have a sign: more is worse.
"""

from __future__ import annotations

from bitgolf.cautions import positions, quantization, scoring, training
from bitgolf.cautions.registry import CAUTIONS
from bitgolf.config.spec import Spec
from bitgolf.recipes.recipe import Recipe

MODULES = [room.__name__ for room in (quantization, positions, training, scoring)]
"""In the order in which they speak; importing them is what fills the list."""


def cautions(recipe: Spec[Recipe], forecast: int) -> list[str]:
    """Everything to be cautious of; `forecast` is the artifact's size in bytes."""
    checks = sorted(CAUTIONS, key=lambda check: MODULES.index(check.__module__))
    found = list(dict.fromkeys(text for check in checks for text in check(recipe)))
    if forecast > (cap := recipe().pack().cap):
        found.insert(0, f"forecast {forecast:,} bytes: {forecast - cap:,} over the cap of {cap:,}")
    return found
