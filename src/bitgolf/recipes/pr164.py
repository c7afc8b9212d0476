"""Nine layers, SmearGate, hashed bigrams, orthogonal start, int6: no averaging and no weight decay.

One of the four systems that Bitgolf was founded on. Source: openai/parameter-golf, pull request 164.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.recipes._published import codec, floored, results
from bitgolf.recipes.pr162 import pr162
from bitgolf.score.methods import Contiguous, Sliding


def pr164() -> Spec[Recipe]:
    recipe = pr162().but(name="pr164", average=None).set("train.steps", 9000)
    recipe = recipe.edit(Rope, but(scaling=part(Ntk, reference=1024, length=2048)))
    recipe = recipe.edit(Muon, but(weight_decay=0.0)).edit(Adam, but(weight_decay=0.0))
    return recipe.but(
        quantize=codec(floored(clip=part(MaxClip), full_range=True)),
        score=(part(Contiguous, window=2048), part(Sliding, window=2048, stride=256)),
        published=results(
            164,
            params=22_368_841,
            bpb={"trained": 1.1669, "packed": 1.17579, "sliding": 1.15382},
            bytes=15_465_508,
            code=64_123,
            steps=8224,
            ms_per_step=73.2,
            seeds={
                42: {"trained": 1.1659, "packed": 1.17444, "sliding": 1.15245},
                1337: {"trained": 1.1683, "packed": 1.17648, "sliding": 1.15444},
                2025: {"trained": 1.1666, "packed": 1.17644, "sliding": 1.15456},
            },
            departures={
                "the first token of a document does not see the last one's embedding": "model.enter.2.mask_starts=false"
            },
        ),
    )
