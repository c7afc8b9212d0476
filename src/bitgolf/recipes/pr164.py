"""pr162 with NTK-aware RoPE scaling, and without weight averaging and weight decay.

One of the four systems that Bitgolf started from. Source: openai/parameter-golf, pull request 164.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import codec_rules, int_rows_with_step_floor
from bitgolf.recipes.pr162 import pr162
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring, SlidingScoring


def pr164() -> Spec[Recipe]:
    recipe = pr162().replace(name="pr164", average=None).set("train.steps", 9000)
    recipe = recipe.edit(RoPE, replace(scaling=part(NTKScaling, original_length=1024, length=2048)))
    recipe = recipe.edit(Muon, replace(weight_decay=0.0)).edit(Adam, replace(weight_decay=0.0))
    return recipe.replace(
        quantize=codec_rules(int_rows_with_step_floor(clip=part(MaxClip), full_range=True)),
        score=(part(ContiguousScoring, window=2048), part(SlidingScoring, window=2048, stride=256)),
    )
