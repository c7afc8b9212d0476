"""pr1285 with a vocabulary of 8,192, layers 4 and 5 run three times, clips in standard deviations, GPTQ for embeddings.

Source: openai/parameter-golf, pull request 1394.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import ShuffledShardWindows
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import calibrate_on_training_text, sd_clip_rules
from bitgolf.recipes.pr1285 import pr1285
from bitgolf.recipes.recipe import Recipe


def pr1394() -> Spec[Recipe]:
    recipe = pr1285().replace(name="pr1394").set("tokens.vocab", 8192).set("model.post_embed", (part(EmbeddingNorm),))
    recipe = recipe.set("model.block.mixer.value", ())
    looped = replace(order=part(LoopedLayers, first_layer=4, last_layer=5, since=(0.5, 0.5)), skip=part(GatedSkip))
    recipe = recipe.edit(UNet, looped).edit(Muon, replace(weight_decay=0.085))
    recipe = recipe.set("train.optim.1.use.weight_decay", 0.085).set("train.order", part(ShuffledShardWindows))
    return recipe.replace(
        calibrate=calibrate_on_training_text(64),
        quantize=sd_clip_rules(mlp_k=12.85, rest=12.85, embed=20.0, embed_bits=8),
    )
