"""The best merged system: nine settings of its predecessor changed by a greedy search.

Source: openai/parameter-golf, pull request 1855.
"""

from __future__ import annotations

from bitgolf.edits import but
from bitgolf.model.gates import SparseGate
from bitgolf.optim.adam import Adam
from bitgolf.recipe import Recipe
from bitgolf.recipes._published import CASEOPS, CLIPPED, results
from bitgolf.recipes.pr1394 import codec
from bitgolf.recipes.pr1851 import pr1851
from bitgolf.spec import Spec


def pr1855() -> Spec[Recipe]:
    recipe = pr1851().but(name="pr1855").edit(Adam, but(betas=(0.9, 0.99))).edit(SparseGate, but(scale=0.5))
    recipe = recipe.set("train.schedule.fraction", 0.85)
    return recipe.but(
        quantize=codec(matrix=13.0, mlp=11.5, embed_bits=7, embed=14.0, gate_bits=8),
        published=results(
            1855,
            params=35_945_671,
            bpb={"trained": 1.0767, "averaged": 1.06513, "packed": 1.07380, "adapted": 1.06108},
            bytes=15_907_550,
            steps=4931,
            ms_per_step=121.7,
            seeds={
                42: {"trained": 1.0756, "averaged": 1.06396, "packed": 1.07254, "adapted": 1.05989},
                0: {"trained": 1.0770, "averaged": 1.06545, "packed": 1.07407, "adapted": 1.06125},
                1234: {"trained": 1.0776, "averaged": 1.06597, "packed": 1.07478, "adapted": 1.06209},
            },
            departures=CLIPPED | CASEOPS | {"warming up leaves no momentum behind": ""},
        ),
    )
