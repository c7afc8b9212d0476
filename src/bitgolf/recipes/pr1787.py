"""pr1736 with a sparse gate on each attention head, Polar Express, and a learning rate of at least a tenth of its peak.

Source: openai/parameter-golf, pull request 1787. Its fused cross-entropy is no setting here: a run selects
kernels by itself.
"""

from __future__ import annotations

from bitgolf.config.edits import append, remove, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseAttentionGate, SparseAttentionGate
from bitgolf.optim.muon import Muon
from bitgolf.optim.orthogonalize import PolarExpress
from bitgolf.recipes._common import document_lora, phased_sgd
from bitgolf.recipes.pr1736 import pr1736
from bitgolf.recipes.recipe import Recipe


def pr1787() -> Spec[Recipe]:
    recipe = pr1736().replace(name="pr1787").edit(Muon, replace(orthogonalize=part(PolarExpress)))
    recipe = recipe.edit(Attention, remove("post_attention", DenseAttentionGate)).edit(
        Attention, append(post_attention=part(SparseAttentionGate, width=12))
    )
    recipe = recipe.set("train.lr_schedule.floor", 0.1)
    return recipe.replace(
        score=(recipe["score.0"], phased_sgd(document_lora(alpha=144.0, warm=True))),
    )
