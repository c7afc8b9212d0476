"""Eleven layers, exclusive self-attention on the last three.

Source: openai/parameter-golf, pull request 265.
"""

from __future__ import annotations

from bitgolf.average.swa import Swa
from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.exclusive import ExclusiveSelf
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk
from bitgolf.model.part import only
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp
from bitgolf.recipes._common import groups
from bitgolf.recipes.pr162 import bigrams, pr162
from bitgolf.recipes.pr164 import pr164
from bitgolf.recipes.recipe import Recipe


def pr265() -> Spec[Recipe]:
    recipe = pr162().but(name="pr265", average=part(Swa, every=120, below=0.5))
    recipe = recipe.set("model.layers", 11).set("model.enter.0", bigrams(2048, layers=11))
    recipe = recipe.edit(Rope, but(scaling=part(Ntk, reference=1024, length=2048)))
    recipe = recipe.edit(Attention, append(after=only("last 3", part(ExclusiveSelf))))
    recipe = recipe.set("train.steps", 9000).set(
        "train.optim",
        groups(
            part(Muon, lr=0.025, momentum=part(Ramp, start=0.92, end=0.99, steps=1500), weight_decay=0.04),
            part(Adam, lr=0.035, weight_decay=0.04),
            part(Adam, lr=0.025, weight_decay=0.04),
        ),
    )
    return recipe.but(
        quantize=pr164()["quantize"],
    )
