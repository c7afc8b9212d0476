"""Blocks, depth, losses, steps."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import is_a, layers_of, shared_at_once, shared_layers, uses
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.model.attention.differential import DifferentialAttention
from bitgolf.model.attention.exclusive import ExclusiveSelf
from bitgolf.model.attention.gates import HeadGate
from bitgolf.model.attention.values import FirstValues
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.logits_transforms import QuinticCap
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.objectives import EntropyWeighted, SharedMultiToken, ZLoss
from bitgolf.model.residual import ProRes
from bitgolf.optim.adam import Adam
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import RampDecay
from bitgolf.recipes.recipe import Recipe
from bitgolf.train.batch_schedule import BatchRamp


@caution
def value_residual_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, FirstValues) and shared_layers(recipe):
        yield "a value residual where layers are visited again: +0.14 (#363), as the first layer's values are stale by then"


@caution
def shared_from_the_start(recipe: Spec[Recipe]) -> Iterator[str]:
    if not any(map(shared_at_once, shared_layers(recipe))):
        return
    yield "layers shared from the first step on: 1.1894 where eleven plain layers had 1.1648 (#363); passes that came on in mid-training gained 0.003 (#1285)"
    if set(layers_of(recipe, ExclusiveSelf)) == set(range(recipe().model["layers"])):
        yield "ExclusiveSelf on every layer where layers are shared from the start: +0.001 (#363)"


@caution
def factored_small_vocabulary(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, FactoredEmbedding) and recipe().tokens().vocab < 4096:
        yield f"a factored embedding at a vocabulary of {recipe['tokens.vocab']:,}: +0.053 to +0.063 at 1,024 (#363); it frees bytes only where the table is large"


@caution
def more_than_one_gate(recipe: Spec[Recipe]) -> Iterator[str]:
    gated = layers_of(recipe, HeadGate)
    if len(gated) > len(set(gated)):
        yield "two gates on one attention output: #1787 refuses that, and no published system has it"


@caution
def saturated_logits(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, QuinticCap) and not uses(recipe, ZLoss):
        yield "QuinticCap gives a logit beyond 1.69 caps no gradient, and #640 had ZLoss beside it to keep logits small"


@caution
def inflated_loss(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(not n["normalised"] for n in uses(recipe, EntropyWeighted)):
        yield "EntropyWeighted(normalised=false) makes loss and gradient up to 1.5 times as large, which broke convergence (#675)"


@caution
def cautious_decay(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(n["cautious"] for n in uses(recipe, Muon, Adam)):
        yield "cautious weight decay: 1.1375 where plain decay had 1.115, sliding at int6 (#1512)"


@caution
def ramp_beside_a_decay(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in uses(recipe, Muon, Adam):
        if node["decay"] and is_a(node["decay"], RampDecay) and node["weight_decay"] != 1.0:
            yield f"RampDecay is the weight decay itself, and weight_decay={node['weight_decay']:g} multiplies it: #675 had its values alone, which is weight_decay=1"


@caution
def branches_still_fading_in(recipe: Spec[Recipe]) -> Iterator[str]:
    steps = 0 if recipe().train().seconds > 0 else recipe().train().steps
    for node in uses(recipe, ProRes):
        last = node["first"] + node["per_layer"] * (recipe().model["layers"] - 1)
        if 0 < steps < last:
            yield f"ProRes has the last layer whole after {last:,} steps, and training ends after {steps:,}: what is scored was never trained"


@caution
def slow_under_a_limit_of_time(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe().train().seconds <= 0:
        return
    if uses(recipe, SwiGLU):
        yield "SwiGLU under a limit of time: better at equal parameters (-0.004, #1090), and worse at equal time, with steps 45 % slower (#42)"
    if uses(recipe, DifferentialAttention):
        yield "DifferentialAttention under a limit of time: equal at equal steps, which took about twice as long (#675)"
    if uses(recipe, GramNewtonSchulz) and recipe().model["dim"] < 1024:
        yield f"GramNewtonSchulz at width {recipe['model.dim']}: at 512 a step took 97 to 99 ms, and 83 without it (#1512); it is for much larger matrices"


@caution
def tried_and_worse(recipe: Spec[Recipe]) -> Iterator[str]:
    if uses(recipe, SharedMultiToken):
        yield "SharedMultiToken scores one set of logits against two targets: +0.025 before quantization (#1493's harness)"
    if uses(recipe, BatchRamp):
        yield "BatchRamp: smaller batches at first were worse by 0.01 to 0.02 in each form tried (#1512)"
