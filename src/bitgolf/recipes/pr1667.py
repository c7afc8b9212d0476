"""pr1626 with a content-dependent SmearGate and a narrow gate on each attention head, without SGD phases.

Source: openai/parameter-golf, pull request 1667.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.attention.gates import NarrowAttentionGate
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import ContentSmear
from bitgolf.recipes._common import (
    FLOAT16_GATES,
    calibrate_on_training_text,
    document_lora,
    sd_clip_rules,
)
from bitgolf.recipes.pr1626 import pr1626
from bitgolf.recipes.recipe import Recipe


def pr1667() -> Spec[Recipe]:
    recipe = pr1626().replace(name="pr1667").edit(QGain, replace(init=5.25))
    recipe = recipe.set("model.post_embed", (part(ContentSmear, width=12), part(EmbeddingNorm)))
    recipe = recipe.edit(Attention, append(post_attention=part(NarrowAttentionGate, width=12)))
    return recipe.replace(
        calibrate=calibrate_on_training_text(64),
        score=(recipe["score.0"], document_lora()),
        quantize=sd_clip_rules(mlp_k=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=FLOAT16_GATES),
    )
