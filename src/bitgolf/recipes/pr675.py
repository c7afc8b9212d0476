"""The baseline with ten layers, squared leaky ReLU, the mean of warm-down checkpoints, and an increasing weight decay.

One of the four systems that Bitgolf started from. Source: openai/parameter-golf, pull request 675. The original trained
on the validation text, which no recipe here can do; this recipe trains on training text. The original's figures of
1.2302 and 1.2287 are therefore no measure of generalization and are kept only as claims.
"""

from __future__ import annotations

from bitgolf.average.lawa import LAWA
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import InverseLRRamp
from bitgolf.pack.byte_coders import LZMA
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe


def pr675() -> Spec[Recipe]:
    recipe = (
        baseline()
        .replace(name="pr675", average=part(LAWA, every=50, keep=64, lr_scale_below=0.5))
        .set("model.layers", 10)
    )
    recipe = recipe.edit(MLP, replace(act=part(SquaredLeakyReLU, slope=0.5))).set("pack.coder", part(LZMA, preset=6))
    return recipe.edit(Muon, replace(weight_decay=1.0, weight_decay_schedule=part(InverseLRRamp, low=0.02, high=0.08)))
