"""Averaging and quantization."""

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
        yield f"{name} over fake quantization from {since:g} of the run on averages weights of two objectives: EMA had +0.009 to +0.012 from it (#1493's harness), SWA lost what it gains alone (#989)"


@caution
def average_or_decay_of_ternary_weights(recipe: Spec[Recipe]) -> Iterator[str]:
    if not find_nodes(recipe, FakeTernary, FakeBinary):
        return
    if recipe().average:
        yield "an average of ternary or binary weights rounds to other levels: EMA lost 0.13 on the way to the file with ternary ones (#640), 0.03 with binary ones (#641)"
    if any(n["weight_decay"] > 0 for n in find_nodes(recipe, Muon)):
        yield "weight decay on ternary or binary weights moves their scale and not their levels, and was worse (#640)"


@caution
def ema_horizon_too_long(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in find_nodes(recipe, EMA):
        steps = 0 if recipe().train().seconds > 0 else recipe().train().steps
        if node["decay"] >= 0.999 and not steps * (1 - node["decay"]) > 10:
            yield f"EMA(decay={node['decay']:g}) looks back {1 / (1 - node['decay']):,.0f} steps: 0.999 was worse than 0.997 in 7,300 steps (#1512)"
        if steps and not node["bias_correction"] and (left := node["decay"] ** steps) > 0.01:
            yield f"after {steps:,} steps EMA(decay={node['decay']:g}) is still {left:.0%} initial weights: set bias_correction=true, or a smaller decay"


@caution
def lr_floor_without_average(recipe: Spec[Recipe]) -> Iterator[str]:
    floors = [n["floor"] for n in find_nodes(recipe().train().lr_schedule, WarmdownFraction)]
    if any(floors) and not recipe().average:
        yield f"a learning rate that never falls under {max(floors):g} leaves noise in the last weights, and nothing averages it away: in #1855 the average was better by 0.0117"


@caution
def low_bit_embedding(recipe: Spec[Recipe]) -> Iterator[str]:
    codec = next((r["use"] for r in recipe().quantize if r().matches("embedding", "embed.weight")), None)
    if codec and codec.cls is IntRows and codec["bits"] <= 6 and not find_nodes(recipe().model["embed"], QATTransform):
        yield f"an embedding in {codec['bits']} bits that was not trained for it: +0.048 with 6 bits (the record MixedQuant); 8 bits cost next to nothing"


@caution
def step_floor_too_coarse(recipe: Spec[Recipe]) -> Iterator[str]:
    few = [n for n in find_nodes(recipe, IntRows) if n["bits"] <= 6]
    coarse = {n["min_step"] for n in few if n["min_step"] * (2 ** (n["bits"] - 1) - 1) > 0.999}
    if coarse and any(n["weight_decay"] > 0 for n in find_nodes(recipe, Muon)):
        yield f"a step is never under {min(coarse):.3f}: a row whose largest weight is under 1 gets fewer levels than its bits allow, and weight decay makes rows small (so in #265 to #1285)"
