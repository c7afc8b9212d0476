"""Nine layers, SmearGate, hashed bigrams, orthogonal start, int6: no averaging and no weight decay.

One of the four systems that Bitgolf was founded on. Source: openai/parameter-golf, pull request 164.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import codec, floored
from bitgolf.recipes.pr162 import pr162
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import Contiguous, Sliding


def pr164() -> Spec[Recipe]:
    recipe = pr162().but(name="pr164", average=None).set("train.steps", 9000)
    recipe = recipe.edit(Rope, but(scaling=part(Ntk, reference=1024, length=2048)))
    recipe = recipe.edit(Muon, but(weight_decay=0.0)).edit(Adam, but(weight_decay=0.0))
    return recipe.but(
        quantize=codec(floored(clip=part(MaxClip), full_range=True)),
        score=(part(Contiguous, window=2048), part(Sliding, window=2048, stride=256)),
    )
