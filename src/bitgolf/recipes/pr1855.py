"""The best merged system: pr1851 with nine settings changed by a greedy search, and tensors coded in groups.

Source: openai/parameter-golf, pull request 1855.
"""

from __future__ import annotations

from typing import Any

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.gates import SparseAttentionGate
from bitgolf.optim.adam import Adam
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import StreamGroup
from bitgolf.recipes._common import FLOAT16_GATES, INT8_GATES, corrected, document_lora, phased_sgd, sd_clip_rules
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
CLIPS: dict[str, Any] = {"mlp_k": 11.5, "rest": 13.0, "embed": 14.0, "embed_bits": 7}


def pr1855() -> Spec[Recipe]:
    recipe = (
        pr1851()
        .replace(name="pr1855")
        .edit(Adam, replace(betas=(0.9, 0.99)))
        .edit(SparseAttentionGate, replace(scale=0.5))
    )
    recipe = recipe.set("train.lr_schedule.fraction", 0.85)
    recipe = recipe.set("pack.coder", part(SmallestCoder, coders=(part(RangeCoder), part(Brotli))))
    recipe = recipe.set(
        "pack.groups", tuple(part(StreamGroup, where=where, name=name) for name, where in GROUPS.items())
    )
    lora = document_lora(rank=80, alpha=144.0, beta=0.99, warm=True)
    return recipe.replace(
        score=(recipe["score.0"], phased_sgd(lora, documents=2500)),
        quantize=sd_clip_rules(**CLIPS, gates=(*INT8_GATES, *FLOAT16_GATES), extend=corrected),
    )
