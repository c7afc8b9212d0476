"""midsize with rows four times as long, and scalable softmax, which keeps attention from spreading out over them."""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.scalable_softmax import ScalableSoftmax
from bitgolf.recipes.midsize import midsize
from bitgolf.recipes.recipe import Recipe


def long_rows() -> Spec[Recipe]:
    recipe = midsize().replace(name="long_rows").edit(Attention, append(qk=part(ScalableSoftmax)))
    train = recipe["train"]
    return recipe.edit("train", replace(rows=max(1, train["rows"] // 4), length=4 * train["length"]))
