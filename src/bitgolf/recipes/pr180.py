"""pr162 with ten layers, int5 in the MLPs, 10,240 bigrams, and weight averaging that starts later.

Source: openai/parameter-golf, pull request 180.
"""

from __future__ import annotations

from bitgolf.average.swa import SWA
from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.optim.adam import Adam
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import FLOAT16
from bitgolf.recipes.pr162 import float16_rules, hashed_bigrams, pr162
from bitgolf.recipes.recipe import Recipe


def pr180() -> Spec[Recipe]:
    recipe = pr162().replace(name="pr180", average=part(SWA, every=50, lr_scale_below=0.4))
    recipe = recipe.set("model.layers", 10).set("model.post_embed.0", hashed_bigrams(10_240, layers=10))
    recipe = recipe.edit(Adam, replace(weight_decay=0.04))
    rows = part(IntRows, bits=6, clip=part(MaxClip), full_range=True)
    return recipe.replace(
        quantize=(
            part(Rule, where="scale", use=FLOAT16),
            *float16_rules(),
            part(
                Rule, where="matrix@post_embed.**", use=rows
            ),  # 65,536 elements: the script prunes larger tensors only
            part(Rule, where="matrix@blocks.*.mlp.**", use=rows.replace(bits=5, prune=0.03)),
            part(Rule, where="*", use=rows.replace(prune=0.03)),
        ),
    )
