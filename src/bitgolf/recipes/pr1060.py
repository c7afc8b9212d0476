"""pr1019 with windows from many shards, the blocks of each visited at a stride coprime to their number.

Source: openai/parameter-golf, pull request 1060. Its script has no late fake quantization.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import CoprimeStride
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.pack.byte_coders import LZMA
from bitgolf.recipes._common import calibrate_on_training_text
from bitgolf.recipes.pr1019 import pr1019
from bitgolf.recipes.recipe import Recipe


def pr1060() -> Spec[Recipe]:
    recipe = pr1019().replace(name="pr1060").set("train.lr_schedule.steps", 3500)
    recipe = recipe.edit(HashedNGramEmbedding, replace(buckets=2816)).edit(
        "model.block.**.linear", replace(weight_transforms=())
    )
    recipe = recipe.set("train.order", part(CoprimeStride))
    return recipe.set("pack.coder", part(LZMA, preset=6)).replace(
        calibrate=calibrate_on_training_text(64),
    )
