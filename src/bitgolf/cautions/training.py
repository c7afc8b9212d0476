"""Cautions about blocks, layer sharing, losses, optimizers and time limits."""

from __future__ import annotations

from collections.abc import Iterator

from bitgolf.cautions.queries import builds, find_nodes, layer_sharing_parts, layers_with, shares_from_start
from bitgolf.cautions.registry import caution
from bitgolf.config.spec import Spec
from bitgolf.model.attention.differential import DifferentialAttention, SplitValueDifferentialAttention
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import AttentionGate
from bitgolf.model.attention.values import ValueResidualBase
from bitgolf.model.build import model_size
from bitgolf.model.factored_embedding import FactoredEmbedding
from bitgolf.model.grouped_linear import GroupedLinear
from bitgolf.model.logits_transforms import QuinticCap
from bitgolf.model.mlp import SwiGLU
from bitgolf.model.objectives import EntropyWeightedLoss, SharedHeadMultiToken, ZLoss
from bitgolf.model.residual import ResidualWarmup
from bitgolf.optim.adam import Adam
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.schedules import InverseLRRamp
from bitgolf.recipes.recipe import Recipe
from bitgolf.training.batch_schedule import BatchSizeWarmup


@caution
def value_residual_on_shared_layers(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe, ValueResidualBase) and layer_sharing_parts(recipe):
        yield "a value residual in a model that executes layers more than once: worse by 0.14 bpb (#363), because the first layer's values are outdated in later passes"


@caution
def shared_from_the_start(recipe: Spec[Recipe]) -> Iterator[str]:
    if not any(map(shares_from_start, layer_sharing_parts(recipe))):
        return
    yield "layers are shared from the first step of training: 1.1894 bpb, against 1.1648 with eleven separate layers (#363); passes added in mid-training gained 0.003 (#1285)"
    if set(layers_with(recipe, ExclusiveSelfAttention)) == set(range(model_size(recipe().model).layers)):
        yield "ExclusiveSelfAttention on every layer of a model that shares layers from the start: worse by 0.001 bpb (#363)"


@caution
def factored_small_vocabulary(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe, FactoredEmbedding) and recipe().tokens().vocab < 4096:
        yield f"FactoredEmbedding with a vocabulary of {recipe['tokens.vocab']:,}: worse by 0.053 to 0.063 bpb at 1,024 (#363); it saves bytes only if the table is large"


@caution
def more_than_one_gate(recipe: Spec[Recipe]) -> Iterator[str]:
    gated = layers_with(recipe, AttentionGate)
    if len(gated) > len(set(gated)):
        yield "two gates on one attention output: #1787 rejects this, and no published system uses it"


@caution
def saturated_logits(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe, QuinticCap) and not find_nodes(recipe, ZLoss):
        yield "QuinticCap without ZLoss: a logit beyond 1.69 times the cap gets no gradient; #640 adds ZLoss to keep logits small"


@caution
def inflated_loss(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(not n["normalised"] for n in find_nodes(recipe, EntropyWeightedLoss)):
        yield "EntropyWeightedLoss(normalised=false) makes loss and gradient up to 1.5 times as large, which prevented convergence (#675)"


@caution
def cautious_decay(recipe: Spec[Recipe]) -> Iterator[str]:
    if any(n["cautious_weight_decay"] for n in find_nodes(recipe, Muon, Adam)):
        yield "cautious weight decay: 1.1375 bpb, against 1.115 with plain weight decay (int6, sliding window, #1512)"


@caution
def ramp_decay_multiplied(recipe: Spec[Recipe]) -> Iterator[str]:
    for node in find_nodes(recipe, Muon, Adam):
        if (
            node["weight_decay_schedule"]
            and builds(node["weight_decay_schedule"], InverseLRRamp)
            and node["weight_decay"] != 1.0
        ):
            yield f"InverseLRRamp returns the weight decay itself, and weight_decay={node['weight_decay']:g} multiplies it: #675 uses weight_decay=1"


@caution
def prores_unfinished(recipe: Spec[Recipe]) -> Iterator[str]:
    steps = 0 if recipe().train().seconds > 0 else recipe().train().steps
    for node in find_nodes(recipe, ResidualWarmup):
        last = node["warmup_steps"] + node["warmup_steps_per_layer"] * (model_size(recipe().model).layers - 1)
        if 0 < steps < last:
            yield f"ResidualWarmup reaches full scale in the last layer after {last:,} steps, but training ends after {steps:,}: the scored model was never trained"


@caution
def slow_parts_under_time_limit(recipe: Spec[Recipe]) -> Iterator[str]:
    if recipe().train().seconds <= 0:
        return
    if find_nodes(recipe, SwiGLU):
        yield "SwiGLU under a time limit: better by 0.004 bpb at equal parameters (#1090), but worse at equal time, since steps are 45 % slower (#42)"
    if find_nodes(recipe, DifferentialAttention):
        yield "DifferentialAttention under a time limit: equal after equal steps, but a step takes about twice as long (#675)"
    if find_nodes(recipe, GramNewtonSchulz) and model_size(recipe().model).dim < 1024:
        yield f"GramNewtonSchulz at width {recipe['model.dim']}: at width 512 a step took 97 to 99 ms, against 83 ms without it (#1512); it is intended for much larger matrices"


@caution
def reported_regressions(recipe: Spec[Recipe]) -> Iterator[str]:
    if find_nodes(recipe, SplitValueDifferentialAttention):
        yield "SplitValueDifferentialAttention: worse by 0.022 bpb, with steps that are 10 % slower (#640)"
    if find_nodes(recipe, GroupedLinear):
        yield "GroupedLinear in the MLPs: worse by 0.031 bpb with two groups and by 0.056 with four (#640)"
    if find_nodes(recipe, SharedHeadMultiToken):
        yield "SharedHeadMultiToken compares one set of logits with two targets: worse by 0.025 bpb before quantization (harness of #1493)"
    if find_nodes(recipe, BatchSizeWarmup):
        yield "BatchSizeWarmup: smaller batches at the start were worse by 0.01 to 0.02 bpb in every variant tried (#1512)"
