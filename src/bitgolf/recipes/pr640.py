"""Ternary weights: ten layers of width 768, a factored embedding, 67 million parameters in 16 MB.

Source: openai/parameter-golf, pull request 640. Its log counts 6,291,456 parameters more, those of an unused head. Its
log also has a temperature of 0.9, which the script looks for and never uses: all five values have the same loss.
"""

from __future__ import annotations

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import FusedAttention, QGain
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import YaRNScaling
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.inits import NormalInit
from bitgolf.model.linear import Linear
from bitgolf.model.logits_transforms import QuinticCap, VocabBias
from bitgolf.model.mlp import MLP, SquaredReLU
from bitgolf.model.objectives import ZLoss
from bitgolf.model.qat_lowbit import AttentionOutputNorm, FakeFloat8, FakeTernary, NormedActivation
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import RowRMSNorm
from bitgolf.optim.orthogonalize import NewtonSchulz
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.pack.byte_coders import LZMA
from bitgolf.quantize.codecs.lowbit import FP8, TernaryGroups
from bitgolf.recipes._common import FLOAT16, optimizer_rules
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring, SlidingScoring

TERNARY = part(TernaryGroups, group_size=128, packing="bitmask", padded_rows=True)


def pr640() -> Spec[Recipe]:
    recipe = _model(baseline().replace(name="pr640").set("tokens.vocab", 8192).set("pack.coder", part(LZMA, preset=9)))
    momentum = part(LinearRamp, start=0.85, end=0.95, steps=500)
    quintic = part(NewtonSchulz, steps=3)
    neomuon = part(Muon, lr=0.04, momentum=momentum, pre_orthogonalize=(part(RowRMSNorm),), orthogonalize=quintic)
    recipe = recipe.edit(
        "train",
        replace(
            seconds=599.0,
            steps=10_000,
            objective=part(ZLoss, weight=1e-4),
            lr_schedule=part(WarmdownFraction, fraction=0.2),
            optim=optimizer_rules(neomuon, part(Adam, lr=0.02), part(Adam, lr=0.02)),
        ),
    )
    return recipe.replace(
        quantize=(
            part(Rule, where="scale@blocks.*.pre_block.*.weight", use=part(FP8)),
            part(Rule, where="scale@layer_schedule.skip.weight", use=part(FP8)),
            part(Rule, where="scale", use=FLOAT16),
            part(Rule, where="matrix@blocks.**", use=TERNARY),
            part(Rule, where="*", use=part(FP8)),
        ),
        score=(part(ContiguousScoring, window=1024), part(SlidingScoring, window=1024, stride=16)),
    )


def _model(recipe: Spec[Recipe]) -> Spec[Recipe]:
    """The recipe with the model of #640."""
    rounded = (part(FakeFloat8),)  # as stored; the head multiplies by the table before rounding
    embed = part(
        FactoredEmbedding,
        width=254,
        weight_transforms=rounded,
        transform_head=False,
        linear=part(Linear, weight_transforms=rounded),
    )
    recipe = recipe.edit("model", replace(layers=10, dim=768, embed=embed))
    ternary = part(Linear, init=part(NormalInit, std=0.02), weight_transforms=(part(FakeTernary, group_size=128),))
    recipe = recipe.edit(MLP, replace(hidden=3072, act=part(NormedActivation, act=part(SquaredReLU)), linear=ternary))
    fused = recipe["model.block.mixer"].replace(linear=ternary, post_attention=(part(AttentionOutputNorm),))
    recipe = recipe.set("model.block.mixer", part(FusedAttention, **fused.kwargs))
    recipe = recipe.edit(RoPE, replace(base=5000.0, scaling=part(YaRNScaling, original_length=1024, length=2048)))
    recipe = recipe.edit(QGain, replace(init=2.25))
    return recipe.set("model.head.logits_transforms", (part(VocabBias), part(QuinticCap, cap=10.0)))
