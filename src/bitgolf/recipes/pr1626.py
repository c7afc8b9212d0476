"""A higher rate for matrices, a longer warm-down, embeddings in seven bits.

Source: openai/parameter-golf, pull request 1626.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import (
    by_document,
    by_phases,
    deviations,
    on_training_text,
)
from bitgolf.recipes.pr1530 import pr1530
from bitgolf.recipes.recipe import Recipe


def pr1626() -> Spec[Recipe]:
    recipe = pr1530().but(name="pr1626").edit(Muon, but(lr=0.026))
    recipe = recipe.set("train.schedule.fraction", 0.75)
    return recipe.but(
        calibrate=on_training_text(16),
        score=(recipe["score.0"], by_phases(by_document())),
        quantize=deviations(mlp=12.0, rest=13.0, embed=15.0, embed_bits=7),
    )
