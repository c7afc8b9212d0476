"""Binary weights: pr640 with fifteen layers, trained for 50,000 steps without a time limit.

Source: openai/parameter-golf, pull request 641. As in #640, its log counts 6,291,456 parameters of an unused head.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block
from bitgolf.model.qat_lowbit import FakeBinary
from bitgolf.model.smear import RunningMeanSmear
from bitgolf.quantize.codecs.lowbit import BinaryGroups
from bitgolf.recipes.pr640 import pr640
from bitgolf.recipes.recipe import Recipe


def pr641() -> Spec[Recipe]:
    recipe = (
        pr640().replace(name="pr641").set("model.layers", 15).edit(Block, replace(post_block=(part(RunningMeanSmear),)))
    )
    recipe = recipe.edit("model.block.**.linear", replace(weight_transforms=(part(FakeBinary, group_size=128),)))
    recipe = recipe.set("quantize.3.use", part(BinaryGroups, group_size=128))
    recipe = recipe.set("model.residual_dtype", "float32")  # that of the running mean, and of all that follows it
    return recipe.set("train.seconds", 0.0).set("train.steps", 50_000)
