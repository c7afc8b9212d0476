"""pr414 with squared leaky ReLU, and Muon sharded over the processes.

Source: openai/parameter-golf, pull request 549. Its parameter banks correspond to the stacks of matrices of one
shape that the optimizer makes here.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.values import ValueEmbedding
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.qat import FakeQuant
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp
from bitgolf.pack.byte_coders import LZMA
from bitgolf.recipes._common import BFLOAT16_MUON, optimizer_rules, streaming_sgd
from bitgolf.recipes.pr414 import pr414
from bitgolf.recipes.recipe import Recipe


def pr549() -> Spec[Recipe]:
    recipe = pr414().replace(name="pr549").set("train.steps", 9000).set("pack.coder", part(LZMA, preset=6))
    recipe = recipe.edit(MLP, replace(act=part(SquaredLeakyReLU, slope=0.5)))
    recipe = recipe.edit(HashedNGramEmbedding, replace(buckets=1536, project=part(Linear, init=part(OrthogonalInit))))
    recipe = recipe.edit(ValueEmbedding, replace(init=part(OrthogonalInit)))
    recipe = recipe.edit(FakeQuant, replace(since=round(1 - 0.15 * 3500 / 7185, 3)))
    recipe = recipe.set(
        "train.optim",
        optimizer_rules(
            part(
                Muon,
                lr=0.025,
                momentum=part(LinearRamp, start=0.92, end=0.99, steps=1500),
                weight_decay=0.04,
                **BFLOAT16_MUON,
            ),
            part(Adam, lr=0.035, weight_decay=0.04),
            part(Adam, lr=0.025, weight_decay=0.04),
            input_projections="scalar",
        ),
    )
    return recipe.replace(
        score=(*recipe["score"], streaming_sgd(lr=0.002)),
    )
