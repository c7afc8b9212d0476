"""A vocabulary of 4,096, four times as wide an MLP, strong weight decay, gated skips; bigrams and SmearGate go.

Source: openai/parameter-golf, pull request 1218.
"""

from __future__ import annotations

from bitgolf.average.ema import Ema
from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.rope import Rope
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import Ramp, WarmdownFraction
from bitgolf.pack.byte_coders import Brotli
from bitgolf.quantize.codecs.gptq import Gptq
from bitgolf.recipes._common import codec, floored, groups, on_training_text
from bitgolf.recipes.pr1060 import pr1060
from bitgolf.recipes.recipe import Recipe


def pr1218() -> Spec[Recipe]:
    recipe = pr1060().but(name="pr1218", average=part(Ema, decay=0.997)).set("tokens.vocab", 4096)
    kept = tuple(p for p in recipe["model.enter"] if p.cls not in (HashedBigrams, BlendSmear))
    recipe = recipe.set("model.enter", kept).edit(MLP, but(hidden=2048)).edit(UNet, but(skip=part(GatedSkip)))
    recipe = recipe.edit(QGain, but(init=4.0)).edit(Rope, but(scaling=None))
    recipe = recipe.edit(
        "train",
        but(
            schedule=part(WarmdownFraction, fraction=0.667),
            optim=groups(
                part(Muon, lr=0.02, momentum=part(Ramp, start=0.92, end=0.99, steps=1500), weight_decay=0.085),
                part(Adam, lr=0.03, weight_decay=0.085),
                part(Adam, lr=0.02, weight_decay=0.02),
            ),
        ),
    )
    return recipe.set("pack.coder", part(Brotli)).but(
        calibrate=on_training_text(64),
        quantize=codec(floored(clip=part(SearchClip, per_row=False), solve=part(Gptq))),
    )
