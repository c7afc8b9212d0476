"""Compression schemes that `bench/compression.py` compares: quantization rules with one step scale, and a coder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bitgolf.config.edits import replace
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import ShuffledWindows
from bitgolf.grids.clip import SdClip
from bitgolf.grids.scales import Float16Scale, LogScale
from bitgolf.model.attention.attention import Attention, QGain
from bitgolf.model.mlp import MLP, SquaredLeakyReLU
from bitgolf.optim.adam import Adam
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import LinearRamp, WarmdownFraction
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.quantize.calibration.calibrate import Calibrate
from bitgolf.quantize.calibration.sources import TrainingText
from bitgolf.quantize.codecs.bit_allocation import EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Float, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.recipes import get_recipe
from bitgolf.recipes.recipe import Recipe

LENGTH = 256  # tokens per window
Rules = tuple[Spec[Rule], ...]


class CompressionScheme(NamedTuple):
    """A way to compress a model.

    rules: function from log2_step_scale (larger is coarser) to quantization rules. coder: used for every stream.
    """

    name: str
    rules: Callable[[float], Rules]
    coder: Spec[Coder]


def compression_recipe(steps: int, calibration_batches: int = 32) -> Spec[Recipe]:
    """The recipe of the compared models, with 5,316,380 parameters, trained for `steps` steps.

    It is the challenge's baseline with seven layers of width 256 and an MLP of 4 x width.
    """
    found = (
        get_recipe("baseline").replace(name="compression", published=None).set("model.layers", 7).set("model.dim", 256)
    )
    found = found.edit(MLP, replace(hidden=1024, act=part(SquaredLeakyReLU, slope=0.5)))
    found = found.edit(Attention, replace(heads=4, kv_heads=2)).edit(QGain, replace(init=2.0))
    momentum = part(LinearRamp, start=0.85, end=0.95, steps=200)
    optim = (
        part(Rule, where="matrix", use=part(Muon, lr=0.03, weight_decay=0.04, momentum=momentum)),
        part(Rule, where="*", use=part(Adam, lr=0.02)),
    )
    limits = replace(
        seconds=0.0, steps=steps, rows=16, micro_rows=8, length=LENGTH, order=part(ShuffledWindows), optim=optim, checkpoint_seconds=120.0
    )  # fmt: skip
    found = found.edit("train", limits).set("train.lr_schedule", part(WarmdownFraction, fraction=0.5))
    source = part(TrainingText, batches=calibration_batches, rows=8, length=LENGTH)
    return found.replace(quantize=published_rules(0.0), calibrate=part(Calibrate, source=source))


def with_scales(*others: Spec[Rule]) -> Rules:
    """A float16 rule for scales, then the other rules."""
    return (part(Rule, where="scale", use=part(Float, dtype="float16")), *others)


def published_rules(log2_step_scale: float, scales: Any = Float16Scale) -> Rules:
    """GPTQ with clips in standard deviations, as in openai/parameter-golf, pull request 1394 and most later ones."""
    k, solve = 2.0**log2_step_scale, part(GPTQ)
    rounded = [
        part(IntRows, bits=bits, clip=part(SdClip, k=k * clip), solver=solve, scales=part(scales))
        for bits, clip in ((8, 20.0), (6, 12.85))
    ]
    return with_scales(part(Rule, where="embedding", use=rounded[0]), part(Rule, where="*", use=rounded[1]))


def trellis_rules(log2_step_scale: float) -> Rules:
    """Trellis codecs with about the bits per weight of `published_rules`: 4.7 for the embedding, 3.3 for the rest."""
    rows = part(EqualRate)
    return with_scales(
        part(Rule, where="embedding", use=part(TrellisCodec, bits=4.715 - log2_step_scale, allocation=rows)),
        part(Rule, where="*", use=part(TrellisCodec, bits=3.328 - log2_step_scale, allocation=rows)),
    )


def allocated_rules(states: int, rate: float, **which: bool) -> Callable[[float], Rules]:
    """Rules with one trellis codec for all matrices, whose bits are allocated by sensitivity (`EqualCost`).

    states: of the trellis. rate: weight of the bit cost in the search. which: settings of `EqualCost`.
    """
    steps = part(EqualCost, **which)
    return lambda log2_step_scale: with_scales(
        part(
            Rule,
            where="*",
            use=part(TrellisCodec, bits=3.4 - log2_step_scale, states=states, rate_weight=rate, allocation=steps),
        )
    )


def input_feature_rules(log2_step_scale: float) -> Rules:
    """Rates by input feature, as in WaterSIC (arXiv 2603.04956): scalar steps proportional to the GPTQ pivots ** -0.5.

    Columns in the given order, one step per column, equal rates for all matrices. Its rescaling of the decoded columns
    and rows, and its correction for quantized inputs, are left out.
    """
    columns = part(EqualCost, rows=False, matrices=False)
    codec = part(
        TrellisCodec, bits=3.4 - log2_step_scale, states=1, allocation=columns, solver=part(GPTQ, order="given")
    )
    return with_scales(part(Rule, where="*", use=codec))


BASE = CompressionScheme("GPTQ int6, SdClip, Brotli", published_rules, part(Brotli))
OURS = CompressionScheme("all of ours", allocated_rules(256, 0.0), part(RangeCoder, variance_contexts=True))
SCHEMES = (
    CompressionScheme(
        "scales alone: log-coded", lambda log2_step_scale: published_rules(log2_step_scale, LogScale), part(Brotli)
    ),
    CompressionScheme("coder alone: range coder", published_rules, part(RangeCoder)),
    CompressionScheme("coder alone: range coder, levels", published_rules, part(RangeCoder, variance_contexts=True)),
    CompressionScheme("trellis alone: 256 states", trellis_rules, part(Brotli)),
    CompressionScheme("allocation alone", allocated_rules(1, 0.0), part(Brotli)),
    CompressionScheme(
        "allocation, range coder, levels", allocated_rules(1, 0.0), part(RangeCoder, variance_contexts=True)
    ),
    CompressionScheme(
        "the same, by matrices only",
        allocated_rules(1, 0.0, rows=False, columns=False),
        part(RangeCoder, variance_contexts=True),
    ),
    CompressionScheme(
        "rates by input feature (WaterSIC)", input_feature_rules, part(RangeCoder, variance_contexts=True)
    ),
    CompressionScheme("all of ours, 8 states", allocated_rules(8, 0.0), part(RangeCoder, variance_contexts=True)),
    CompressionScheme(
        "all of ours, rate-weighted search", allocated_rules(256, 1.0), part(RangeCoder, variance_contexts=True)
    ),
    OURS,
)
