"""`midsize` with rows four times as long and attention that stays sharp over them."""

from __future__ import annotations

from bitgolf.edits import append, but
from bitgolf.model.attend import Attention
from bitgolf.model.scalable import ScalableSoftmax
from bitgolf.recipe import Recipe
from bitgolf.recipes.midsize import midsize
from bitgolf.spec import Spec, part


def long_rows() -> Spec[Recipe]:
    recipe = midsize().but(name="long_rows").edit(Attention, append(qk=part(ScalableSoftmax)))
    train = recipe["train"]
    return recipe.edit("train", but(rows=max(1, train["rows"] // 4), length=4 * train["length"]))
