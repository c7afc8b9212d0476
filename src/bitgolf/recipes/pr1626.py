"""pr1530 with a higher learning rate for matrices, a longer warm-down, 7-bit embeddings and SGD phases while scoring.

Source: openai/parameter-golf, pull request 1626.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import (
    calibrate_on_training_text,
    document_lora,
    phased_sgd,
    sd_clip_rules,
)
from bitgolf.recipes.pr1530 import pr1530
from bitgolf.recipes.recipe import Recipe


def pr1626() -> Spec[Recipe]:
    recipe = pr1530().replace(name="pr1626").edit(Muon, replace(lr=0.026))
    recipe = recipe.set("train.lr_schedule.fraction", 0.75)
    return recipe.replace(
        calibrate=calibrate_on_training_text(16),
        score=(recipe["score.0"], phased_sgd(document_lora())),
        quantize=sd_clip_rules(mlp_k=12.0, rest=13.0, embed=15.0, embed_bits=7),
    )
