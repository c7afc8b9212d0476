"""pr265 with exclusive self-attention on the last four layers, and an exponential average instead of snapshots.

Source: openai/parameter-golf, pull request 287.
"""

from __future__ import annotations

from bitgolf.average.ema import EMA
from bitgolf.config.spec import Spec, part
from bitgolf.recipes.pr265 import pr265
from bitgolf.recipes.recipe import Recipe


def pr287() -> Spec[Recipe]:
    recipe = pr265().replace(name="pr287", average=part(EMA, decay=0.997))
    return recipe.set("model.block.mixer.post_attention.0.layers", "last 4")
