"""pr1060 with a vocabulary of 4,096, an MLP of 4 x width, more weight decay and gated skips; no bigrams, no SmearGate.

Source: openai/parameter-golf, pull request 1218.
"""

from __future__ import annotations

from bitgolf.average.ema import EMA
from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.attention.attention import QGain
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.mlp import MLP
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.pack.byte_coders import Brotli
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.recipes._common import calibrate_on_training_text, codec_rules, int_rows_with_step_floor, optimizer_rules
from bitgolf.recipes.pr1060 import pr1060
from bitgolf.recipes.recipe import Recipe


def pr1218() -> Spec[Recipe]:
    recipe = pr1060().replace(name="pr1218", average=part(EMA, decay=0.997)).set("tokens.vocab", 4096)
    kept = tuple(p for p in recipe["model.post_embed"] if p.cls not in (HashedNGramEmbedding, BlendSmear))
    recipe = (
        recipe.set("model.post_embed", kept).edit(MLP, replace(hidden=2048)).edit(UNet, replace(skip=part(GatedSkip)))
    )
    recipe = recipe.edit(QGain, replace(init=4.0)).edit(RoPE, replace(scaling=None))
    recipe = recipe.edit(
        "train",
        replace(
            lr_schedule=part(WarmdownFraction, fraction=0.667),
            optim=optimizer_rules(
                part(Muon, lr=0.02, momentum=part(LinearRamp, start=0.92, end=0.99, steps=1500), weight_decay=0.085),
                part(Adam, lr=0.03, weight_decay=0.085),
                part(Adam, lr=0.02, weight_decay=0.02),
            ),
        ),
    )
    return recipe.set("pack.coder", part(Brotli)).replace(
        calibrate=calibrate_on_training_text(64),
        quantize=codec_rules(int_rows_with_step_floor(clip=part(SearchClip, per_row=False), solver=part(GPTQ))),
    )
