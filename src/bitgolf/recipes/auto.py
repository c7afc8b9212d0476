"""One dial: the model, batch and bits follow from a byte cap, a clock, the text and the speed of the machine."""

from __future__ import annotations

from typing import Any

from bitgolf.average.ema import EMA
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.model.attention.attention import Attention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.values import ValueResidual
from bitgolf.model.block import Block
from bitgolf.model.head import TiedHead
from bitgolf.model.inits import NormalInit
from bitgolf.model.linear import Embedding
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.model.objectives import CrossEntropy
from bitgolf.model.residual import MixX0
from bitgolf.model.smear import BlendSmear
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.settings import Counted, Pack
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.codec import Float
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes import get_recipe
from bitgolf.recipes.choose import REFERENCE_BUDGET, Choice, choose
from bitgolf.recipes.recipe import Recipe
from bitgolf.recipes.sizes import RecipeSizes
from bitgolf.score.adapt.ngram_mixing import NGramMixing
from bitgolf.score.coding.roundtrip import CompressionRoundTrip
from bitgolf.score.methods import ContiguousScoring, SlidingScoring
from bitgolf.text.documents import PythonStandardLibrary
from bitgolf.tokens.trainers import SentencePieceBPE
from bitgolf.training.settings import Train


def auto() -> Spec[Recipe]:
    """The recipe for the budget of `quickstart` on the machine of docs/measurements.md; `run auto` chooses for its own."""
    return chosen_recipe(choose(REFERENCE_BUDGET))


def chosen_recipe(choice: Choice) -> Spec[Recipe]:
    """The recipe of a choice: at its sizes, or the tuned recipe that stands for them, under the name `auto`."""
    if choice.recipe:
        return get_recipe(choice.recipe).replace(name="auto", published=None)
    budget = choice.budget
    return sized_recipe(choice.sizes, cap=budget.cap, seconds=budget.seconds, counted=budget.counted)


def sized_recipe(sizes: RecipeSizes, *, cap: int, seconds: float, counted: Counted = "model") -> Spec[Recipe]:
    """The recipe `auto` at these sizes. cap: bytes of what `counted` says. seconds: of training, with calibration."""
    window: dict[str, Any] = {"window": sizes.length, "stride": max(1, sizes.length // 4)}
    return part(
        Recipe,
        name="auto",
        text=part(PythonStandardLibrary),
        tokens=part(SentencePieceBPE, vocab=sizes.vocab),
        model=_model(sizes),
        train=_train(sizes, seconds),
        average=part(EMA, decay=0.95, bias_correction=True),
        quantize=(
            part(Rule, where="scale", use=part(Float, dtype="float16")),
            part(Rule, where="*", use=part(TrellisCodec, bits=sizes.bits)),
        ),
        calibrate=part(Calibrate, source=part(TrainingText, batches=sizes.calibration_batches, rows=8)),
        pack=part(Pack, cap=cap, counted=counted, coder=part(RangeCoder, variance_contexts=True)),
        score=(
            part(ContiguousScoring, window=sizes.length),
            part(SlidingScoring, **window),
            part(NGramMixing, **window),
        ),
        proof=part(CompressionRoundTrip, document_bytes=16_000),
    )


def _model(sizes: RecipeSizes) -> Spec[LM]:
    """Blocks as in `quickstart`, with a smeared embedding and value residuals, which help at this scale."""
    mixer = part(
        Attention,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        core=part(SDPACore),
        qk=(part(QKNorm), part(RoPE), part(QGain, init=1.5)),
        value=(part(ValueResidual),),
    )
    return part(
        LM,
        dim=sizes.width,
        layers=sizes.layers,
        embed=part(Embedding, init=part(NormalInit, std=0.02)),
        post_embed=(part(BlendSmear),),
        block=part(
            Block,
            pre_block=(part(MixX0),),
            mixer=mixer,
            mlp=part(MLP, hidden=sizes.hidden, act=part(SquaredLeakyReLU, slope=0.5)),
        ),
        head=part(TiedHead),
    )


def _train(sizes: RecipeSizes, seconds: float) -> Spec[Train]:
    momentum = part(LinearRamp, start=0.85, end=0.95, steps=sizes.momentum_steps)
    return part(
        Train,
        seconds=seconds,
        steps=sizes.steps,
        rows=sizes.rows,
        length=sizes.length,
        micro_rows=sizes.micro_rows,
        checkpoint_seconds=min(300.0, max(30.0, seconds / 12)),
        objective=part(CrossEntropy),
        lr_schedule=part(WarmdownFraction, fraction=0.5),
        optim=(
            part(
                Rule,
                where="matrix",
                use=part(Muon, lr=sizes.matrix_lr, weight_decay=sizes.weight_decay, momentum=momentum),
            ),
            part(Rule, where="*", use=part(Adam, lr=sizes.table_lr)),
        ),
    )
