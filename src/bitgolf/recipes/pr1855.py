"""The best merged system: nine settings of its predecessor changed by a greedy search, and files coded in groups.

Source: openai/parameter-golf, pull request 1855.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.gates import SparseGate
from bitgolf.optim.adam import Adam
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import Smallest
from bitgolf.pack.coders import Range
from bitgolf.pack.settings import Group
from bitgolf.recipes._common import BYTE_GATES, HALF_GATES, by_document, by_phases, deviations
from bitgolf.recipes.pr1851 import pr1851
from bitgolf.recipes.recipe import Recipe

GROUPS = {
    "tok_emb": "embedding",
    "c_k": "matrix@**.mixer.k.weight",
    "c_q": "matrix@**.mixer.q.weight",
    "c_v": "matrix@**.mixer.v.weight",
    "proj": "matrix@**.mixer.out.weight",
    "mlp_fc": "matrix@**.mlp.up.weight",
    "mlp_proj": "matrix@**.mlp.down.weight",
}


def pr1855() -> Spec[Recipe]:
    recipe = pr1851().but(name="pr1855").edit(Adam, but(betas=(0.9, 0.99))).edit(SparseGate, but(scale=0.5))
    recipe = recipe.set("train.schedule.fraction", 0.85)
    recipe = recipe.set("pack.coder", part(Smallest, coders=(part(Range), part(Brotli))))
    recipe = recipe.set("pack.groups", tuple(part(Group, where=where, name=name) for name, where in GROUPS.items()))
    gates = (*BYTE_GATES, *HALF_GATES)
    lora = by_document(rank=80, alpha=144.0, beta=0.99, warm=True)
    return recipe.but(
        score=(recipe["score.0"], by_phases(lora, documents=2500)),
        quantize=deviations(mlp=11.5, rest=13.0, embed=14.0, embed_bits=7, gates=gates, repaired=True),
    )
