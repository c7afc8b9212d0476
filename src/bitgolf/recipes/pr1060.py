"""Windows of many shards, each visited by a stride coprime to its length.

Source: openai/parameter-golf, pull request 1060. It had no late fake quantization.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import CoprimeStride
from bitgolf.model.ngram_embedding import HashedBigrams
from bitgolf.pack.byte_coders import Lzma
from bitgolf.recipes._published import CLIPPED, SEARCHED, on_training_text, reserved, results
from bitgolf.recipes.pr1019 import pr1019


def pr1060() -> Spec[Recipe]:
    recipe = pr1019().but(name="pr1060").set("train.schedule.steps", 3500)
    recipe = recipe.edit(HashedBigrams, but(rows=2816)).edit("model.block.**.linear", but(view=()))
    recipe = recipe.set("train.order", part(CoprimeStride))
    return recipe.set("pack.coder", part(Lzma, preset=6)).but(
        calibrate=on_training_text(64),
        published=results(
            1060,
            params=27_038_812,
            bpb={"averaged": 1.1321, "packed": 1.13569, "sliding": 1.11222},
            bytes=15_983_626,
            code=96_398,
            steps=6704,
            ms_per_step=87.4,
            seeds={1337: {"sliding": 1.11184}, 2025: {"sliding": 1.11212}, 42: {"sliding": 1.11271}},
            departures={
                **CLIPPED,
                **reserved(14),
                **SEARCHED,
                "SmearGate is masked at document starts": "model.enter.2.mask_starts=false",
            },
        ),
    )
