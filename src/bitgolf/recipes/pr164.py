"""Nine layers, SmearGate, hashed bigrams, orthogonal start, int6: no averaging and no weight decay.

One of the four systems that Bitgolf was founded on. Source: openai/parameter-golf, pull request 164.
"""

from __future__ import annotations

from bitgolf.edits import but
from bitgolf.model.rope import Ntk, Rope
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.recipe import Recipe
from bitgolf.recipes._published import results
from bitgolf.recipes.pr162 import pr162
from bitgolf.score.windows import Contiguous, Sliding
from bitgolf.spec import Spec, part


def pr164() -> Spec[Recipe]:
    recipe = pr162().but(name="pr164", average=None).set("train.steps", 9000)
    recipe = recipe.edit(Rope, but(scaling=part(Ntk, reference=1024, length=2048)))
    recipe = recipe.edit(Muon, but(weight_decay=0.0)).edit(Adam, but(weight_decay=0.0))
    return recipe.but(
        score=(part(Contiguous, window=2048), part(Sliding, window=2048, stride=256)),
        published=results(
            164,
            params=22_368_841,
            bpb={"trained": 1.1659, "packed": 1.1744, "sliding": 1.1538},
            bytes=15_401_594,
            steps=8390,
            ms_per_step=68,
            seeds={42: {"sliding": 1.1524}, 1337: {"sliding": 1.1544}, 2025: {"sliding": 1.1546}},
            departures={
                "the first token of a document does not see the last one's embedding": "model.enter.2.mask_starts=false"
            },
        ),
    )
