"""The best merged system: nine settings of its predecessor changed by a greedy search, and files coded in groups.

Source: openai/parameter-golf, pull request 1855.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.recipe import Recipe
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.gates import SparseGate
from bitgolf.optim.adam import Adam
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import Smallest
from bitgolf.pack.coders import Range
from bitgolf.pack.settings import Group
from bitgolf.recipes._published import BYTE_GATES, HALF_GATES, by_document, by_phases, deviations, results
from bitgolf.recipes.pr1851 import pr1851

GROUPS = {
    "tok_emb": "embedding",
    "c_k": "matrix@**.mixer.k.weight",
    "c_q": "matrix@**.mixer.q.weight",
    "c_v": "matrix@**.mixer.v.weight",
    "proj": "matrix@**.mixer.out.weight",
    "mlp_fc": "matrix@**.mlp.up.weight",
    "mlp_proj": "matrix@**.mlp.down.weight",
}
SORTED = "pack.coder=Columns(coder=Smallest(coders=(Range(),Brotli())))"


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
        published=results(
            1855,
            params=35_945_671,
            bpb={"trained": 1.0767, "averaged": 1.06513, "packed": 1.07380, "adapted": 1.06108},
            bytes=15_907_550,
            code=31_999,
            steps=4931,
            ms_per_step=121.7,
            seeds={
                42: {"trained": 1.0756, "averaged": 1.06396, "packed": 1.07254, "adapted": 1.05989},
                0: {"trained": 1.0770, "averaged": 1.06545, "packed": 1.07407, "adapted": 1.06125},
                1234: {"trained": 1.0776, "averaged": 1.06597, "packed": 1.07478, "adapted": 1.06209},
            },
            departures={
                **recipe["published"]["departures"],
                "warming up leaves no momentum behind": "",
                "range coding stands for lrzip": "",
                "rows lie as they are, where similar ones were neighbours, which range coding does not see": SORTED,
            },
        ),
    )
