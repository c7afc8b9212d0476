"""Runs 0 to 6 of the branch of #1512, on the systems of #1851 and #1855.

Source: openai/parameter-golf, pull request 1512, files train_top.py, train_top_1855.py, top_*.md and logs/top_*. One seed
(42), and two more of run 6. Run 6 is the best file of this branch: 1.05957 bits per byte in 15,901,624 bytes.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec
from bitgolf.model.attention.gates import SparseAttentionGate
from bitgolf.optim.adam import Adam
from bitgolf.recipes._common import INT8_GATES
from bitgolf.recipes.experiments.pr1493_variants import (
    decay_schedule,
    paired_heads,
    shared_hessians,
    strong_decay_schedule,
)
from bitgolf.recipes.pr1851 import pr1851
from bitgolf.recipes.pr1855 import pr1855
from bitgolf.recipes.recipe import Recipe


def pr1851_strong_decay() -> Spec[Recipe]:
    """pr1851 with a weight decay that falls to 0.5 and rises to 1.75 times its value (run 0)."""
    return strong_decay_schedule(pr1851())


def pr1851_shared_hessians() -> Spec[Recipe]:
    """pr1851, calibrated on the batches of all processes (run 1)."""
    return shared_hessians(pr1851(), 16)


def pr1851_decay_shared_hessians() -> Spec[Recipe]:
    """pr1851_shared_hessians with a weight decay that falls to 0.65 and rises to 1.5 times its value (run 2)."""
    return decay_schedule(pr1851_shared_hessians())


def pr1851_strong_decay_shared_hessians_paired_heads() -> Spec[Recipe]:
    """pr1851_shared_hessians with the strong decay, and queries and keys in pairs of heads (run 3)."""
    return paired_heads(strong_decay_schedule(pr1851_shared_hessians()))


def pr1851_run_4() -> Spec[Recipe]:
    """pr1851 with strong decay, shared Hessians and the nine settings of #1855: over the cap (run 4)."""
    recipe = strong_decay_schedule(pr1851_shared_hessians()).edit(Adam, replace(betas=(0.9, 0.99)))
    recipe = recipe.edit(SparseAttentionGate, replace(scale=0.5)).set("train.lr_schedule.fraction", 0.85)
    with_float16_gates = tuple(rule for rule in pr1855()["quantize"] if rule not in INT8_GATES)
    return recipe.replace(score=pr1855()["score"], quantize=with_float16_gates)


def pr1855_run_5() -> Spec[Recipe]:
    """pr1855 with strong decay and shared Hessians (run 5)."""
    return shared_hessians(strong_decay_schedule(pr1855()), 16)


def pr1851_run_6() -> Spec[Recipe]:
    """pr1851_run_4 with tensors coded in groups, as in #1855: the best file of #1512's branch (run 6)."""
    return pr1851_run_4().replace(pack=pr1855()["pack"])
