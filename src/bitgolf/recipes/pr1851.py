"""pr1787 with a content-dependent SmearGate, masked at document starts, and low-rank corrections of the worst matrices.

Source: openai/parameter-golf, pull request 1851.
"""

from __future__ import annotations

from bitgolf.config.spec import Spec, part
from bitgolf.model.residual import EmbeddingNorm
from bitgolf.model.smear import ContentSmear
from bitgolf.recipes._common import (
    FLOAT16_GATES,
    corrected,
    document_lora,
    phased_sgd,
    sd_clip_rules,
)
from bitgolf.recipes.pr1787 import pr1787
from bitgolf.recipes.recipe import Recipe


def pr1851() -> Spec[Recipe]:
    recipe = (
        pr1787().replace(name="pr1851").set("model.post_embed", (part(ContentSmear, width=12), part(EmbeddingNorm)))
    )
    return recipe.replace(
        score=(recipe["score.0"], phased_sgd(document_lora(alpha=144.0, warm=True, decay=1.0))),
        quantize=sd_clip_rules(mlp_k=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=FLOAT16_GATES, extend=corrected),
    )
