"""LeakyReLU squared, and Muon that shares its work among the processes.

Source: openai/parameter-golf, pull request 549. What it calls parameter banks is the optimizer's stack of equal shapes here.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.values import ValueTable
from bitgolf.model.inits import Orthogonal
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.qat import FakeQuant
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp
from bitgolf.pack.byte_coders import Lzma
from bitgolf.recipes._common import BANKS, by_chunks, groups
from bitgolf.recipes.pr414 import pr414
from bitgolf.recipes.recipe import Recipe


def pr549() -> Spec[Recipe]:
    recipe = pr414().but(name="pr549").set("train.steps", 9000).set("pack.coder", part(Lzma, preset=6))
    recipe = recipe.edit(MLP, but(act=part(LeakySquared, slope=0.5)))
    recipe = recipe.edit(HashedBigrams, but(rows=1536, project=part(Linear, init=part(Orthogonal))))
    recipe = recipe.edit(ValueTable, but(init=part(Orthogonal)))
    recipe = recipe.edit(FakeQuant, but(since=round(1 - 0.15 * 3500 / 7185, 3)))
    recipe = recipe.set(
        "train.optim",
        groups(
            part(Muon, lr=0.025, momentum=part(Ramp, start=0.92, end=0.99, steps=1500), weight_decay=0.04, **BANKS),
            part(Adam, lr=0.035, weight_decay=0.04),
            part(Adam, lr=0.025, weight_decay=0.04),
            projections="scalar",
        ),
    )
    return recipe.but(
        score=(*recipe["score"], by_chunks(lr=0.002)),
    )
