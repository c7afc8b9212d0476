"""pr162 with eleven layers and exclusive self-attention on the last three.

Source: openai/parameter-golf, pull request 265.
"""

from __future__ import annotations

from bitgolf.average.swa import SWA
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling
from bitgolf.model.part import only
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp
from bitgolf.recipes._common import optimizer_rules
from bitgolf.recipes.pr162 import hashed_bigrams, pr162
from bitgolf.recipes.pr164 import pr164
from bitgolf.recipes.recipe import Recipe


def pr265() -> Spec[Recipe]:
    recipe = pr162().replace(name="pr265", average=part(SWA, every=120, lr_scale_below=0.5))
    recipe = recipe.set("model.layers", 11).set("model.post_embed.0", hashed_bigrams(2048, layers=11))
    recipe = recipe.edit(RoPE, replace(scaling=part(NTKScaling, original_length=1024, length=2048)))
    recipe = recipe.edit(Attention, append(post_attention=only("last 3", part(ExclusiveSelfAttention))))
    recipe = recipe.set("train.steps", 9000).set(
        "train.optim",
        optimizer_rules(
            part(Muon, lr=0.025, momentum=part(LinearRamp, start=0.92, end=0.99, steps=1500), weight_decay=0.04),
            part(Adam, lr=0.035, weight_decay=0.04),
            part(Adam, lr=0.025, weight_decay=0.04),
        ),
    )
    return recipe.replace(
        quantize=pr164()["quantize"],
    )
