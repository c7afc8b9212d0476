"""A dense gate on each attention head, stored in eight bits.

Source: openai/parameter-golf, pull request 1736.
"""

from __future__ import annotations

from bitgolf.config.edits import append, but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseGate
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import BYTE_GATES, deviations
from bitgolf.recipes.pr1729 import pr1729
from bitgolf.recipes.recipe import Recipe


def pr1736() -> Spec[Recipe]:
    recipe = pr1729().but(name="pr1736").edit(Muon, but(decay=None))
    recipe = recipe.edit(Attention, append(after=part(DenseGate, std=0.005)))
    return recipe.but(
        quantize=deviations(mlp=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=BYTE_GATES),
    )
