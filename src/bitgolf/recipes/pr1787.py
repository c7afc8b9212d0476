"""A sparse gate on each attention head, Polar Express, and a learning rate that never falls under a tenth.

Source: openai/parameter-golf, pull request 1787. Its fused cross-entropy is a kernel, which a run chooses by itself.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but, without
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseGate, SparseGate
from bitgolf.optim.muon import Muon
from bitgolf.optim.orthogonalize import PolarExpress
from bitgolf.recipes._published import CHARGED, CLIPPED, LOOKED_UP, WITHIN, by_document, by_phases, reserved, results
from bitgolf.recipes.pr1736 import pr1736


def pr1787() -> Spec[Recipe]:
    recipe = pr1736().but(name="pr1787").edit(Muon, but(orthogonalize=part(PolarExpress)))
    recipe = recipe.edit(Attention, without("after", DenseGate)).edit(
        Attention, append(after=part(SparseGate, width=12))
    )
    recipe = recipe.set("train.schedule.floor", 0.1)
    return recipe.but(
        score=(recipe["score.0"], by_phases(by_document(alpha=144.0, warm=True))),
        published=results(
            1787,
            params=35_945_658,
            bpb={"averaged": 1.06699, "packed": 1.07632, "adapted": 1.06335},
            bytes=15_940_380,
            code=30_305,
            steps=4961,
            seeds={
                42: {"averaged": 1.06764, "packed": 1.07699, "adapted": 1.06400},
                0: {"averaged": 1.06667, "packed": 1.07603, "adapted": 1.06308},
                1234: {"averaged": 1.06665, "packed": 1.07595, "adapted": 1.06297},
            },
            departures=CLIPPED | LOOKED_UP | WITHIN | CHARGED | reserved(0.5),
        ),
    )
