"""A sparse gate on each attention head, Polar Express, and a learning rate that never falls under a tenth.

Source: openai/parameter-golf, pull request 1787. Its fused cross-entropy is a kernel, which a run chooses by itself.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but, without
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseGate, SparseGate
from bitgolf.optim.muon import Muon
from bitgolf.optim.orthogonalize import PolarExpress
from bitgolf.recipes._common import by_document, by_phases
from bitgolf.recipes.pr1736 import pr1736
from bitgolf.recipes.recipe import Recipe


def pr1787() -> Spec[Recipe]:
    recipe = pr1736().but(name="pr1787").edit(Muon, but(orthogonalize=part(PolarExpress)))
    recipe = recipe.edit(Attention, without("after", DenseGate)).edit(
        Attention, append(after=part(SparseGate, width=12))
    )
    recipe = recipe.set("train.schedule.floor", 0.1)
    return recipe.but(
        score=(recipe["score.0"], by_phases(by_document(alpha=144.0, warm=True))),
    )
