"""Windows of many shards, each visited by a stride coprime to its length.

Source: openai/parameter-golf, pull request 1060. It had no late fake quantization.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import CoprimeStride
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.pack.byte_coders import Lzma
from bitgolf.recipes._common import on_training_text
from bitgolf.recipes.pr1019 import pr1019
from bitgolf.recipes.recipe import Recipe


def pr1060() -> Spec[Recipe]:
    recipe = pr1019().but(name="pr1060").set("train.schedule.steps", 3500)
    recipe = recipe.edit(HashedBigrams, but(rows=2816)).edit("model.block.**.linear", but(view=()))
    recipe = recipe.set("train.order", part(CoprimeStride))
    return recipe.set("pack.coder", part(Lzma, preset=6)).but(
        calibrate=on_training_text(64),
    )
