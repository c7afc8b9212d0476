"""Exclusive self-attention on the last four of eleven layers, and an exponential average instead of snapshots.

Source: openai/parameter-golf, pull request 287.
"""

from __future__ import annotations

from bitgolf.average.ema import Ema
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.recipes._published import results
from bitgolf.recipes.pr265 import pr265


def pr287() -> Spec[Recipe]:
    recipe = pr265().but(name="pr287", average=part(Ema, decay=0.997))
    recipe = recipe.set("model.block.mixer.after.0.layers", "last 4")
    return recipe.but(
        published=results(
            287,
            params=26_829_913,
            bpb={"trained": 1.1427, "packed": 1.14944, "sliding": 1.12707},
            bytes=15_534_645,
            code=66_133,
            steps=7103,
            seeds={1337: {"sliding": 1.12707}},
            departures=recipe["published"]["departures"],
        )
    )
