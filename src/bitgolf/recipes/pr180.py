"""Ten layers, int5 in the MLPs, more bigrams, averaging from later on.

Source: openai/parameter-golf, pull request 180.
"""

from __future__ import annotations

from bitgolf.average.swa import Swa
from bitgolf.config.edits import but
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.optim.adam import Adam
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import HALF
from bitgolf.recipes.pr162 import bigrams, pr162, whole
from bitgolf.recipes.recipe import Recipe


def pr180() -> Spec[Recipe]:
    recipe = pr162().but(name="pr180", average=part(Swa, every=50, below=0.4))
    recipe = recipe.set("model.layers", 10).set("model.enter.0", bigrams(10_240, layers=10))
    recipe = recipe.edit(Adam, but(weight_decay=0.04))
    rows = part(IntRows, bits=6, clip=part(MaxClip), full_range=True)
    return recipe.but(
        quantize=(
            part(Rule, where="scale", use=HALF),
            *whole(),
            part(Rule, where="matrix@enter.**", use=rows),  # not over the 65,536 numbers from which on they were pruned
            part(Rule, where="matrix@blocks.*.mlp.**", use=rows.but(bits=5, prune=0.03)),
            part(Rule, where="*", use=rows.but(prune=0.03)),
        ),
    )
