"""pr1729 with a dense gate on each attention head, stored in int8, and a constant weight decay.

Source: openai/parameter-golf, pull request 1736.
"""

from __future__ import annotations

from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.gates import DenseAttentionGate
from bitgolf.optim.muon import Muon
from bitgolf.recipes._common import INT8_GATES, sd_clip_rules
from bitgolf.recipes.pr1729 import pr1729
from bitgolf.recipes.recipe import Recipe


def pr1736() -> Spec[Recipe]:
    recipe = pr1729().replace(name="pr1736").edit(Muon, replace(weight_decay_schedule=None))
    recipe = recipe.edit(Attention, append(post_attention=part(DenseAttentionGate, std=0.005)))
    return recipe.replace(
        quantize=sd_clip_rules(mlp_k=12.0, rest=13.0, embed=15.0, embed_bits=7, gates=INT8_GATES),
    )
