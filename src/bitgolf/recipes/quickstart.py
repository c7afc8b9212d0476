"""The first recipe to try: Python's standard library as text, 90 seconds on two CPU cores, at most 1,000,000 bytes."""

from __future__ import annotations

from bitgolf.average.ema import EMA
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.block import Block
from bitgolf.model.head import TiedHead
from bitgolf.model.inits import NormalInit
from bitgolf.model.linear import Embedding
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.objectives import CrossEntropy
from bitgolf.model.residual import MixX0
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import Pack
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes.recipe import Recipe
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.coding.roundtrip import CompressionRoundTrip
from bitgolf.score.methods import ContiguousScoring, SlidingScoring
from bitgolf.text.documents import PythonStandardLibrary
from bitgolf.tokens.trainers import SentencePieceBPE
from bitgolf.training.settings import Train


def quickstart() -> Spec[Recipe]:
    return part(
        Recipe,
        name="quickstart",
        text=part(PythonStandardLibrary),
        tokens=part(SentencePieceBPE, vocab=2048),
        model=model(),
        train=part(
            Train,
            seconds=90.0,
            rows=8,
            length=256,
            objective=part(CrossEntropy),
            lr_schedule=part(WarmdownFraction, fraction=0.5),
            optim=(
                part(
                    Rule,
                    where="matrix",
                    use=part(Muon, lr=0.03, momentum=part(LinearRamp, start=0.85, end=0.95, steps=300)),
                ),
                part(Rule, where="embedding", use=part(Adam, lr=0.02)),
                part(Rule, where="scale", use=part(Adam, lr=0.02)),
            ),
        ),
        average=part(EMA, decay=0.95, bias_correction=True),
        quantize=(
            part(Rule, where="scale", use=part(Float, dtype="float16")),
            part(Rule, where="*", use=part(TrellisCodec, bits=5.0)),
        ),
        calibrate=part(Calibrate, source=part(TrainingText, batches=8)),
        pack=part(Pack, cap=1_000_000, counted="model", coder=part(RangeCoder, variance_contexts=True)),
        score=(
            part(ContiguousScoring, window=256),
            part(SlidingScoring, window=256, stride=64),
            part(NGramMixing, window=256, stride=64),
        ),
        proof=part(CompressionRoundTrip, document_bytes=16_000),
    )


def model() -> Spec[LM]:
    mixer = part(
        Attention, heads=4, kv_heads=4, core=part(SDPACore), qk=(part(QKNorm), part(RoPE), part(QGain, init=1.5))
    )
    return part(
        LM,
        dim=128,
        layers=2,
        embed=part(Embedding, init=part(NormalInit, std=0.02)),
        block=part(
            Block,
            pre_block=(part(MixX0),),
            mixer=mixer,
            mlp=part(MLP, hidden=384, act=part(SquaredLeakyReLU, slope=0.5)),
        ),
        head=part(TiedHead),
    )
