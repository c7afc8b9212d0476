"""Ten layers, int5 in the MLPs, more bigrams, averaging from later on.

Source: openai/parameter-golf, pull request 180.
"""

from __future__ import annotations

from bitgolf.average.swa import Swa
from bitgolf.edits import but
from bitgolf.grids.clip import MaxClip
from bitgolf.optim.adam import Adam
from bitgolf.quantize.codec import IntRows
from bitgolf.recipe import Recipe
from bitgolf.recipes._published import results
from bitgolf.recipes.pr162 import bigrams, codec, pr162
from bitgolf.rules import Rule
from bitgolf.spec import Spec, part


def pr180() -> Spec[Recipe]:
    recipe = pr162().but(name="pr180", average=part(Swa, every=50, below=0.4))
    recipe = recipe.set("model.layers", 10).set("model.enter.0", bigrams(10_240, layers=10))
    recipe = recipe.edit(Adam, but(weight_decay=0.04))
    mlp = part(Rule, where="matrix@blocks.*.mlp.**", use=part(IntRows, bits=5, clip=part(MaxClip)))
    return recipe.but(
        quantize=(mlp, *codec(tables=6)),
        published=results(
            180,
            params=25_517_137,
            bpb={"trained": 1.1530, "sliding": 1.14276},
            bytes=15_965_978,
            steps=6711,
            seeds={
                42: {"trained": 1.1533, "sliding": 1.14271},
                1337: {"trained": 1.1533, "sliding": 1.14298},
                2024: {"trained": 1.1524, "sliding": 1.14260},
            },
            departures=pr162()["published"]["departures"],
        ),
    )
