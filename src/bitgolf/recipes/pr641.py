"""Binary weights: fifteen layers, trained for 50,000 steps without a limit of time.

Source: openai/parameter-golf, pull request 641. As in 640, its log counts 6,291,456 parameters of an unused head.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block
from bitgolf.model.qat_lowbit import Binary
from bitgolf.model.smear import MeanSmear
from bitgolf.quantize.codecs.lowbit import BinaryGroups
from bitgolf.recipes.pr640 import pr640
from bitgolf.recipes.recipe import Recipe


def pr641() -> Spec[Recipe]:
    recipe = pr640().but(name="pr641").set("model.layers", 15).edit(Block, but(leave=(part(MeanSmear),)))
    recipe = recipe.edit("model.block.**.linear", but(view=(part(Binary, group=128),)))
    recipe = recipe.set("quantize.3.use", part(BinaryGroups, group=128))
    return recipe.set("train.seconds", 0.0).set("train.steps", 50_000)
