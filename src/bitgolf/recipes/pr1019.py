"""Exclusive self-attention on all layers, 3,072 bigrams of width 112, GPTQ on samples of the model's own.

Source: openai/parameter-golf, pull request 1019.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.model.qat import FakeQuant
from bitgolf.pack.byte_coders import Lzma
from bitgolf.recipes._common import codec, floored, on_own_samples, twice_damped
from bitgolf.recipes.pr549 import pr549
from bitgolf.recipes.recipe import Recipe


def pr1019() -> Spec[Recipe]:
    recipe = pr549().but(name="pr1019").set("train.steps", 20_000).set("train.schedule.steps", 4000)
    recipe = recipe.edit(HashedBigrams, but(rows=3072, width=112)).set("model.block.mixer.after.0.layers", "*")
    recipe = recipe.edit(FakeQuant, but(since=round(1 - 0.15 * 4000 / 6922, 3)))
    return recipe.set("pack.coder", part(Lzma, preset=9)).but(
        calibrate=on_own_samples(),
        score=recipe["score"][:2],
        quantize=codec(floored(clip=part(SearchClip, per_row=False), solve=twice_damped())),
    )
