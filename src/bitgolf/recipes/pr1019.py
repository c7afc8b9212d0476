"""pr549 with exclusive self-attention on all layers, 3,072 bigrams of width 112 and GPTQ calibrated on model samples.

Source: openai/parameter-golf, pull request 1019.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.qat import FakeQuant
from bitgolf.pack.byte_coders import LZMA
from bitgolf.recipes._common import (
    calibrate_on_generated_text,
    codec_rules,
    gptq_damped_twice,
    int_rows_with_step_floor,
)
from bitgolf.recipes.pr549 import pr549
from bitgolf.recipes.recipe import Recipe


def pr1019() -> Spec[Recipe]:
    recipe = pr549().replace(name="pr1019").set("train.steps", 20_000).set("train.lr_schedule.steps", 4000)
    recipe = recipe.edit(HashedNGramEmbedding, replace(buckets=3072, width=112)).set(
        "model.block.mixer.post_attention.0.layers", "*"
    )
    recipe = recipe.edit(FakeQuant, replace(since=round(1 - 0.15 * 4000 / 6922, 3)))
    return recipe.set("pack.coder", part(LZMA, preset=9)).replace(
        calibrate=calibrate_on_generated_text(),
        score=recipe["score"][:2],
        quantize=codec_rules(
            int_rows_with_step_floor(clip=part(SearchClip, per_row=False), solver=gptq_damped_twice())
        ),
    )
