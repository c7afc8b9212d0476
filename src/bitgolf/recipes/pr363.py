"""A study of recurrence: the middle three of nine layers run three times and are trained with quantization noise.

Source: openai/parameter-golf, pull request 363. The script of that pull request is an earlier system; this recipe
follows its report. The system was 0.025 bits per byte worse than eleven plain layers.
"""

from __future__ import annotations

from bitgolf.average.ema import EMA
from bitgolf.config.edits import append, replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip, SearchClip
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.mlp import MLP
from bitgolf.model.objectives import MultiTokenPrediction
from bitgolf.model.part import only
from bitgolf.model.qat import QuantNoise
from bitgolf.optim.muon import Muon
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes._common import codec_rules, int_rows_with_step_floor
from bitgolf.recipes.pr162 import hashed_bigrams
from bitgolf.recipes.pr315 import pr315
from bitgolf.recipes.recipe import Recipe


def pr363() -> Spec[Recipe]:
    recipe = (
        pr315()
        .replace(name="pr363", average=part(EMA, decay=0.997))
        .edit("model.block.**.linear", replace(weight_transforms=()))
    )
    recipe = recipe.set("model.layers", 9).set("model.dim", 640).edit(MLP, replace(hidden=1920))
    recipe = recipe.set("model.post_embed.0", hashed_bigrams(4096, layers=9))
    recipe = recipe.edit(UNet, replace(order=part(LoopedLayers, first_layer=3, last_layer=5, since=(0.0, 0.0))))
    recipe = recipe.edit(
        "model.block.**.linear",
        append(weight_transforms=only("3-5", part(QuantNoise, codec=part(IntRows, bits=8, clip=part(MaxClip))))),
    )
    recipe = recipe.set("train.objective", part(MultiTokenPrediction, heads=4, weight=0.3)).edit(
        Muon, replace(weight_decay=0.02)
    )
    heads = part(Rule, where="head", use=recipe["train.optim.0.use"])
    recipe = recipe.set("train.optim", (heads, *recipe["train.optim"]))
    recipe = recipe.set("train.lr_schedule.steps", 2000)
    five = int_rows_with_step_floor(5, clip=part(SearchClip, per_row=False))
    return recipe.replace(
        quantize=codec_rules(five, projections=five),
    )
