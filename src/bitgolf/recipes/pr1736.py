"""A dense gate on each attention head, stored in eight bits.

Source: openai/parameter-golf, pull request 1736.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseGate
from bitgolf.optim.muon import Muon
from bitgolf.recipes._published import BYTE_GATES, CHARGED, CLIPPED, LOOKED_UP, WITHIN, deviations, reserved, results
from bitgolf.recipes.pr1729 import pr1729


def pr1736() -> Spec[Recipe]:
    recipe = pr1729().but(name="pr1736").edit(Muon, but(decay=None))
    recipe = recipe.edit(Attention, append(after=part(DenseGate, std=0.005)))
    return recipe.but(
        quantize=deviations(mlp=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=BYTE_GATES),
        published=results(
            1736,
            params=35_989_658,
            bpb={"averaged": 1.06852, "packed": 1.07793, "adapted": 1.06549},
            bytes=15_978_834,
            code=28_025,
            steps=4848,
            seeds={
                42: {"averaged": 1.06907, "packed": 1.07847, "adapted": 1.06610},
                0: {"averaged": 1.06779, "packed": 1.07719, "adapted": 1.06473},
                1234: {"averaged": 1.06872, "packed": 1.07811, "adapted": 1.06563},
            },
            departures=CLIPPED | LOOKED_UP | WITHIN | CHARGED | reserved(4),
        ),
    )
