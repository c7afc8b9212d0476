"""Cautions about weight averaging and quantization."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.average.ema import EMA
from bitgolf.cautions.queries import averaging_start, find_nodes
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.model.qat import QATTransform
from bitgolf.model.qat_lowbit import FakeBinary, FakeTernary
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import WarmdownFraction
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.recipes.recipe import Recipe


@caution
def average_across_qat_start(recipe: Spec[Recipe]) -> Iterator[str]:
    since = max((n["since"] for n in find_nodes(recipe().model, QATTransform)), default=0.0)
    average = recipe().average
    if average and since > averaging_start(recipe):
        name = average.name
        yield f"{name} averages weights from before and after the start of fake quantization (at {since:g} of the run), i.e. of two objectives: EMA was worse by 0.009 to 0.012 bpb (harness of #1493), SWA lost its gain (#989)"


@caution
def average_or_decay_of_ternary_weights(recipe: Spec[Recipe]) -> Iterator[str]:
    if not find_nodes(recipe, FakeTernary, FakeBinary):
        return
    if recipe().average:
        yield "an average of ternary or binary weights rounds to other levels than the trained weights: with EMA, quantization lost 0.13 bpb with ternary (#640) and 0.03 with binary weights (#641)"
    if any(n["weight_decay"] > 0 for n in find_nodes(recipe, Muon)):
        yield "weight decay on ternary or binary weights changes their scale but not their levels, and was worse (#640)"


@caution
def ema_horizon_too_long(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in find_nodes(recipe, EMA):
        steps = 0 if recipe().train().seconds > 0 else recipe().train().steps
        if node["decay"] >= 0.999 and not steps * (1 - node["decay"]) > 10:
            yield f"EMA(decay={node['decay']:g}) averages over about {1 / (1 - node['decay']):,.0f} steps: 0.999 was worse than 0.997 in a run of 7,300 steps (#1512)"
        if steps and not (node["bias_correction"] or node["since"]) and (left := node["decay"] ** steps) > 0.01:
            yield f"after {steps:,} steps the initial weights still contribute {left:.0%} to EMA(decay={node['decay']:g}): set bias_correction=true or use a smaller decay"


@caution
def lr_floor_without_average(recipe: Spec[Recipe]) -> Iterator[str]:
    floors = [n["floor"] for n in find_nodes(recipe().train().lr_schedule, WarmdownFraction)]
    if any(floors) and not recipe().average:
        yield f"the learning rate factor never falls below {max(floors):g}, which leaves noise in the final weights, and the recipe has no weight average: in #1855 the averaged weights were better by 0.0117 bpb"


@caution
def low_bit_embedding(recipe: Spec[Recipe]) -> Iterator[str]:
    codec = next((r["use"] for r in recipe().quantize if r().matches("embedding", "embed.weight")), None)
    if codec and codec.cls is IntRows and codec["bits"] <= 6 and not find_nodes(recipe().model["embed"], QATTransform):
        yield f"the embedding is quantized to {codec['bits']} bits without fake quantization in training: worse by 0.048 bpb at 6 bits (record MixedQuant), almost no loss at 8 bits"


@caution
def step_floor_too_coarse(recipe: Spec[Recipe]) -> Iterator[str]:
    few = [n for n in find_nodes(recipe, IntRows) if n["bits"] <= 6]
    coarse = {n["min_step"] for n in few if n["min_step"] * (2 ** (n["bits"] - 1) - 1) > 0.999}
    if coarse and any(n["weight_decay"] > 0 for n in find_nodes(recipe, Muon)):
        yield f"min_step={min(coarse):.3f} gives rows whose largest weight is below 1 fewer levels than their bits allow, and weight decay makes rows small (as in #265 to #1285)"
