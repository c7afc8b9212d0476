"""pr315 with value embeddings on the last two layers, a longer warm-down, and clips found by search.

Source: openai/parameter-golf, pull request 414.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SearchClip
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.values import AddValueEmbedding, ValueEmbedding
from bitgolf.model.inits import OrthogonalInit
from bitgolf.model.part import only
from bitgolf.model.qat import FakeQuant
from bitgolf.recipes._common import codec_rules, int_rows_with_step_floor
from bitgolf.recipes.pr315 import pr315
from bitgolf.recipes.recipe import Recipe


def pr414() -> Spec[Recipe]:
    recipe = pr315().replace(name="pr414").set("train.steps", 20_000).set("train.lr_schedule.steps", 3500)
    # The script's generic initialization scales this projection as one at the end of a branch.
    small = part(OrthogonalInit, gain=22**-0.5)
    recipe = recipe.edit("model", append(post_embed=part(ValueEmbedding, width=128, value_dim=256, init=small)))
    recipe = recipe.edit(Attention, append(value=only("last 2", part(AddValueEmbedding))))
    recipe = recipe.edit(FakeQuant, replace(since=round(1 - 0.15 * 3500 / 7096, 3)))
    return recipe.replace(
        quantize=codec_rules(int_rows_with_step_floor(clip=part(SearchClip, per_row=False))),
    )
