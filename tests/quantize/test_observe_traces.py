"""Observation for calibration leaves no trace in the model, and refuses what is not finite."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.edits import replace
from bitgolf.config.spec import part
from bitgolf.errors import BitgolfError
from bitgolf.grids.clip import MaxClip
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.model.mlp import MLP
from bitgolf.model.qat import QuantNoise
from bitgolf.quantize.calibration.observe import matrix_stats, observe
from bitgolf.quantize.codecs.codec import IntRows
from helpers.observed_models import MODELS, some_ids
from helpers.toy import built, toy_model


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LM:
    return built(MODELS[request.param])


def state(model: LM) -> dict[str, Any]:
    """Everything that observing might change."""
    return {
        "wanted": {path: p.requires_grad for path, p in model.named_parameters()},
        "gradients": {path: p.grad for path, p in model.named_parameters()},
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "attributes": [set(vars(m)) for m in model.modules()],
        "weights": {path: p.detach().clone() for path, p in model.named_parameters()},
    }


def assert_same(found: dict[str, Any], before: dict[str, Any]) -> None:
    for path, w in before.pop("weights").items():
        assert torch.equal(found["weights"][path], w)
    for path, g in before.pop("gradients").items():
        assert found["gradients"][path] is g
    assert {k: v for k, v in found.items() if k in before} == before


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(model: LM, training: bool) -> None:
    """Also a model in which some parameters require no gradients, and some have gradients."""
    model.train(training)
    first, last = next(model.parameters()), list(model.parameters())[-1]
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    before = state(model)
    observe(model, [some_ids()])
    assert_same(state(model), before)


@pytest.mark.parametrize("where", ["blocks.2.mlp", "embed", "head"])
def test_the_model_is_left_as_it_was_when_it_fails(where: str) -> None:
    model = built(MODELS["factored"])
    before, out_of_luck = state(model), RuntimeError("out of luck")

    def fail(*_: Any) -> None:
        raise out_of_luck

    handle = model.get_submodule(where).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        observe(model, [some_ids()])
    handle.remove()
    assert_same(state(model), before)


def test_no_graph_is_left_between_batches() -> None:
    """When the next batch is requested, only the sums are alive: no logits, activations or graph."""
    model, seen = built(MODELS["plain"]), list[weakref.ref[Any]]()
    for module in (model.blocks[1], model.norm, model.head):  # the norm: what is observed last
        module.register_forward_hook(lambda _, inputs, y: seen.append(weakref.ref(y)))

    def batches() -> Iterator[Tensor]:
        for seed in range(3):
            assert not any(ref() is not None for ref in seen)
            yield some_ids(seed=seed)

    sums = observe(model, batches())
    assert len(seen) == 9
    assert not any(
        t.requires_grad for d in (sums.hessians, sums.output_fisher, sums.lookup_gradients) for t in d.values()
    )


def test_weights_get_no_gradients_meanwhile() -> None:
    """Weight gradients are not needed, and would cost a third of the backward pass and the memory of the weights."""
    model, wanted = built(MODELS["plain"]), set[bool]()

    def look(*_: Any) -> None:
        wanted.update(p.requires_grad for p in model.parameters())

    model.blocks[0].register_forward_hook(look)
    observe(model, [some_ids()])
    assert wanted == {False}


def test_a_model_in_training_is_seen_as_it_is_scored() -> None:
    noisy = toy_model().edit(
        MLP,
        replace(
            linear=part(Linear, weight_transforms=(part(QuantNoise, codec=part(IntRows, bits=2, clip=part(MaxClip))),))
        ),
    )
    model, ids = built(noisy), some_ids()
    scored, training = (observe(model.train(on), [ids]) for on in (False, True))
    assert all(torch.equal(h, training.hessians[path]) for path, h in scored.hessians.items())


def test_it_works_where_gradients_are_off() -> None:
    model = built(MODELS["plain"])
    with torch.no_grad():
        sums = observe(model, [some_ids()])
    assert all(squares.any() for squares in sums.output_fisher.values())


def test_targets_are_drawn_by_the_seed() -> None:
    model, ids = built(MODELS["plain"]), some_ids()
    one, same, other = (observe(model, [ids], seed=seed).output_fisher["blocks.0.mlp.up.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


# ---- what is not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_has_diverged_is_refused(value: float) -> None:
    model = built(MODELS["untied head"])
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.up.weight")[0, 0] = value
    with pytest.raises(BitgolfError, match="not finite") as error:
        matrix_stats(observe(model, [some_ids()]))
    assert "training has diverged" in error.value.hint


@pytest.mark.parametrize("kind", ["hessians", "output_fisher"])
def test_a_sum_that_overflows_is_refused(kind: str) -> None:
    sums = observe(built(MODELS["plain"]), [some_ids()])
    getattr(sums, kind)["blocks.1.mlp.up.weight"][0] = float("inf")
    with pytest.raises(BitgolfError, match="not finite") as error:
        matrix_stats(sums)
    assert error.value.where == "blocks.1.mlp.up.weight"


def test_nothing_watched_is_nothing_known() -> None:
    assert matrix_stats(observe(built(MODELS["plain"]), [])) == {}
