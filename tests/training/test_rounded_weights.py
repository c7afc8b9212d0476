"""Quantization-aware training: a late start in a compiled run, and a run with ternary weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitgolf.config.edits import append
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import MaxClip
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.qat import FakeQuant, QuantNoise, SoftRoundQuant
from bitgolf.model.qat_lowbit import AttentionOutputNorm, FakeFloat8, FakeTernary, NormedActivation
from bitgolf.quantize.codecs.codec import IntRows
from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.graphs import warm_up_graphs
from bitgolf.training.trainer import Trainer
from helpers.toy import toy_recipe
from helpers.toy_training import make_trainer, same

KINDS = [  # `test_warming_up_leaves_no_trace` has one of them, too
    part(FakeQuant, codec=part(IntRows, clip=part(MaxClip))),
    pytest.param(part(QuantNoise, codec=part(IntRows, bits=8, clip=part(MaxClip))), marks=pytest.mark.exhaustive),
    pytest.param(part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip))), marks=pytest.mark.exhaustive),
]


def trainer(data: Path, *views: Spec[WeightTransform]) -> Trainer:
    recipe = toy_recipe(steps=8).set("model.layers", 1)
    for view in views:
        recipe = recipe.edit("model.block.mlp.linear", append(weight_transforms=view))
    made = make_trainer(data, recipe)
    torch._dynamo.reset()
    graph = torch.compile(made.loss_module, fullgraph=True, dynamic=False, backend="eager")
    made.plan = made.plan._replace(compute_loss=graph)
    return made


def run(trainer: Trainer, first: int, last: int) -> list[float]:
    return [float(trainer.step(step, TrainingProgress(step, 8, 0.0, 0.0))) for step in range(first, last)]


@pytest.fixture(scope="module")
def plain(data: Path) -> list[float]:
    """Losses of a run that rounds nothing."""
    return run(trainer(data), 0, 8)


@pytest.mark.parametrize("node", KINDS, ids=repr)
def test_late_in_a_compiled_run_it_switches_on(data: Path, plain: list[float], node: Spec[WeightTransform]) -> None:
    late = run(trainer(data, node.replace(since=0.5)), 0, 8)
    assert plain[:4] == late[:4] and plain[4] != late[4]


def test_warming_up_leaves_no_trace(data: Path, plain: list[float]) -> None:
    cold = trainer(data, part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip)), since=0.5))
    start, losses = cold.clone_state(), run(cold, 0, 8)
    assert plain[:4] == losses[:4] and plain[4] != losses[4]
    warm = trainer(data, part(SoftRoundQuant, codec=part(IntRows, clip=part(MaxClip)), since=0.5))
    warm_up_graphs(warm, 1)
    assert same(warm.state_dict(), start) and run(warm, 0, 8) == losses


def test_a_ternary_model_trains(data: Path) -> None:
    """With 8-bit embeddings and normalized inputs of output projections, as in pull request 640."""
    recipe = toy_recipe(steps=20)
    for place in ("model.block.mixer.linear", "model.block.mlp.linear"):
        recipe = recipe.edit(place, append(weight_transforms=part(FakeTernary)))
    recipe = recipe.edit("model.embed", append(weight_transforms=part(FakeFloat8)))
    recipe = recipe.edit("model.block.mixer", append(post_attention=part(AttentionOutputNorm)))
    trainer = make_trainer(data, recipe.set("model.block.mlp.act", part(NormedActivation)), noisy=False)
    losses = [float(trainer.step(step, TrainingProgress(step, 20, 0.0, 0.0))) for step in range(20)]
    assert losses[-1] < losses[0] - 0.5
