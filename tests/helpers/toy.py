"""The toy model and the toy recipe that many tests share, at a size for one core."""

from __future__ import annotations

import torch

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.attention.attention import Attention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.block import Block
from bitgolf.model.head import TiedHead
from bitgolf.model.inits import NormalInit
from bitgolf.model.linear import Embedding
from bitgolf.model.lm import LM
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.mlp import MLP, SquaredReLU
from bitgolf.model.residual import MixX0
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import RangeCoder
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.coding.roundtrip import CompressionRoundTrip
from bitgolf.score.methods import ContiguousScoring, SlidingScoring

VOCAB = 64


def toy_model() -> Spec[LM]:
    """A model of three layers of width 32 that uses every kind of chain of parts."""
    mixer = part(
        Attention, heads=4, kv_heads=2, core=part(SDPACore), qk=(part(QKNorm), part(RoPE), part(QGain, init=1.5))
    )
    return part(
        LM,
        dim=32,
        layers=3,
        embed=part(Embedding, init=part(NormalInit, std=0.3)),
        block=part(Block, pre_block=(part(MixX0),), mixer=mixer, mlp=part(MLP, hidden=48, act=part(SquaredReLU))),
        head=part(TiedHead, logits_transforms=(part(Softcap, cap=20.0),)),
    )


def built(spec: Spec[LM], *, seed: int = 0, noise: float = 0.2, vocab: int = VOCAB) -> LM:
    """The model with noise added to every parameter, since zero-initialized branches would hide errors."""
    torch.manual_seed(seed)
    model = spec(BuildContext(vocab=vocab))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn_like(p))
    return model.eval()


def toy_recipe(*, steps: int = 30, vocab: int = 300) -> Spec[Recipe]:
    """`quickstart` at a size that trains in about a second, with int8 rounding and without calibration."""
    rounded = part(Rule, where="*", use=part(IntRows, bits=8, clip=part(MaxClip)))
    recipe = get_recipe("quickstart").replace(name="toy", calibrate=None).set("quantize.1", rounded)
    recipe = recipe.set("pack.coder", part(SmallestCoder, coders=(part(RangeCoder), part(Brotli))))
    recipe = recipe.set("tokens.vocab", vocab).set("model.dim", 32).set("model.layers", 2)
    recipe = recipe.edit(Attention, replace(heads=2, kv_heads=2)).edit(MLP, replace(hidden=48))
    recipe = recipe.set("train", recipe().train.replace(seconds=0.0, steps=steps, rows=4, length=32, micro_rows=0))
    recipe = recipe.set("proof", part(CompressionRoundTrip, document_bytes=1))  # the shortest document
    return recipe.set("score", (part(ContiguousScoring, window=32), part(SlidingScoring, window=32, stride=16)))
