"""The challenge's baseline: 9 layers of width 512, vocabulary 1,024, Muon, int8 and zlib. 17,059,912 parameters.

Source: openai/parameter-golf, train_gpt.py at the challenge's start.
"""

from __future__ import annotations

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import SequentialOrder
from bitgolf.model.attention.attention import Attention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.block import Block
from bitgolf.model.head import TiedHead
from bitgolf.model.inits import NormalInit
from bitgolf.model.layer_schedule import UNet
from bitgolf.model.linear import Embedding
from bitgolf.model.lm import LM
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.mlp import MLP, SquaredReLU
from bitgolf.model.objectives import CrossEntropy
from bitgolf.model.residual import MixX0
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownSteps
from bitgolf.pack.byte_coders import Zlib
from bitgolf.pack.settings import Pack
from bitgolf.quantize.codecs.codec import Float
from bitgolf.recipes._common import INT8
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.methods import ContiguousScoring
from bitgolf.text.documents import CommandLineText
from bitgolf.tokens.trainers import SentencePieceBPE
from bitgolf.training.settings import Train


def baseline() -> Spec[Recipe]:
    return part(
        Recipe,
        name="baseline",
        text=part(CommandLineText),
        tokens=part(SentencePieceBPE, vocab=1024),
        model=model(),
        train=part(
            Train,
            seconds=600.0,
            steps=20_000,
            rows=512,
            length=1024,
            micro_rows=64,  # an eighth of `rows`: the share of one of 8 GPUs
            order=part(SequentialOrder),
            objective=part(CrossEntropy),
            lr_schedule=part(WarmdownSteps, steps=1200),
            optim=(
                part(
                    Rule,
                    where="matrix",
                    use=part(Muon, lr=0.04, momentum=part(LinearRamp, start=0.85, end=0.95, steps=500)),
                ),
                part(Rule, where="embedding", use=part(Adam, lr=0.05)),
                part(Rule, where="scale", use=part(Adam, lr=0.04)),
            ),
        ),
        quantize=(
            part(Rule, where="scale", use=part(Float, dtype="float32")),
            part(Rule, where="*", use=INT8),
        ),
        pack=part(Pack, cap=16_000_000, coder=part(Zlib, level=9)),
        score=(part(ContiguousScoring, window=1024),),
    )


def model() -> Spec[LM]:
    mixer = part(
        Attention,
        heads=8,
        kv_heads=4,
        core=part(SDPACore),
        qk=(part(QKNorm), part(RoPE, base=10_000.0), part(QGain, init=1.5)),
    )
    return part(
        LM,
        dim=512,
        layers=9,
        embed=part(Embedding, init=part(NormalInit, std=0.005)),
        block=part(Block, pre_block=(part(MixX0),), mixer=mixer, mlp=part(MLP, hidden=1024, act=part(SquaredReLU))),
        layer_schedule=part(UNet),
        head=part(TiedHead, logits_transforms=(part(Softcap, cap=30.0),)),
    )
