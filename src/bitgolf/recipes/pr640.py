"""Ternary weights: ten layers of width 768, a factored embedding, 67 million parameters in 16 MB.

Source: openai/parameter-golf, pull request 640. Its log counts 6,291,456 parameters more, of a head that nothing uses. It
kept queries, keys and values in one matrix, which Muon orthogonalized whole; here they are three.
"""

from __future__ import annotations

from bitgolf.config.edits import but
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Yarn
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.inits import Normal
from bitgolf.model.linear import Linear
from bitgolf.model.logits_transforms import QuinticCap, VocabBias
from bitgolf.model.mlp import MLP, ReluSquared
from bitgolf.model.objectives import ZLoss
from bitgolf.model.qat_lowbit import Float8, Normed, NormedOutput, Ternary
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowRms
from bitgolf.optim.orthogonalize import NewtonSchulz
from bitgolf.optim.schedules import Ramp, WarmdownFraction
from bitgolf.pack.byte_coders import Lzma
from bitgolf.quantize.codecs.lowbit import Fp8, TernaryGroups
from bitgolf.recipes._common import HALF, groups
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import Contiguous, Sliding


def pr640() -> Spec[Recipe]:
    recipe = baseline().but(name="pr640").set("tokens.vocab", 8192).set("pack.coder", part(Lzma, preset=9))
    rounded = (part(Float8),)  # as they are stored; the original's head read the table unrounded while it trained
    embed = part(FactoredEmbedding, width=254, view=rounded, linear=part(Linear, view=rounded))
    recipe = recipe.edit("model", but(layers=10, dim=768, embed=embed))
    ternary = part(Linear, init=part(Normal, std=0.02), view=(part(Ternary, group=128),))
    recipe = recipe.edit(MLP, but(hidden=3072, act=part(Normed, act=part(ReluSquared)), linear=ternary))
    recipe = recipe.edit(Attention, but(linear=ternary, after=(part(NormedOutput),)))
    recipe = recipe.edit(Rope, but(base=5000.0, scaling=part(Yarn, reference=1024, length=2048)))
    recipe = recipe.edit(QGain, but(init=2.25))
    recipe = recipe.set("model.head.caps", (part(VocabBias), part(QuinticCap, cap=10.0)))
    momentum = part(Ramp, start=0.85, end=0.95, steps=500)
    neomuon = part(Muon, lr=0.04, momentum=momentum, before=(part(RowRms),), orthogonalize=part(NewtonSchulz, steps=3))
    recipe = recipe.edit(
        "train",
        but(
            seconds=599.0,
            steps=10_000,
            objective=part(ZLoss, weight=1e-4),
            schedule=part(WarmdownFraction, fraction=0.2),
            optim=groups(neomuon, part(Adam, lr=0.02), part(Adam, lr=0.02)),
        ),
    )
    return recipe.but(
        quantize=(
            *(part(Rule, where=f"scale@{path}.weight", use=part(Fp8)) for path in ("blocks.*.enter.*", "depth.skip")),
            part(Rule, where="scale", use=HALF),
            part(Rule, where="matrix@blocks.**", use=part(TernaryGroups, group=128, form="bitmask")),
            part(Rule, where="*", use=part(Fp8)),
        ),
        score=(part(Contiguous, window=1024), part(Sliding, window=1024, stride=16)),
    )
