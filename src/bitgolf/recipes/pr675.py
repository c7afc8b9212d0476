"""Ten layers, LeakyReLU squared, the mean of the warm-down's checkpoints, a weight decay that ramps up.

One of the four systems that Bitgolf was founded on: its techniques, on training text. Source: openai/parameter-golf, pull
request 675. The original trained on the validation text, which cannot be expressed here; so its figures of 1.2302 and
1.2287 say nothing of how it generalizes, and stand here only as what was claimed.
"""

from __future__ import annotations

from bitgolf.average.lawa import Lawa
from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import RampDecay
from bitgolf.pack.byte_coders import Lzma
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe


def pr675() -> Spec[Recipe]:
    recipe = baseline().but(name="pr675", average=part(Lawa, every=50, keep=64, below=0.5)).set("model.layers", 10)
    recipe = recipe.edit(MLP, but(act=part(LeakySquared, slope=0.5))).set("pack.coder", part(Lzma, preset=6))
    return recipe.edit(Muon, but(weight_decay=1.0, decay=part(RampDecay, low=0.02, high=0.08)))
