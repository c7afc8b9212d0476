"""RoPE scaling while a model is scored: the same frequencies as a recipe would give, and no change to the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.edits import but
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import Sdpa, Window
from bitgolf.model.attention.rope import Rope
from bitgolf.model.attention.rope_scaling import Ntk, Scaling, Yarn
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import ALONE
from bitgolf.score.execution import compiled_function
from bitgolf.score.execution.forward import Compiled, Eager, kernels_for
from bitgolf.score.methods import Contiguous, Method, Sliding
from bitgolf.score.referee import score
from bitgolf.score.text import Text
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TEXT = Text(np.concatenate([[1], np.random.default_rng(0).integers(2, VOCAB, 120), [1]]), 300)
MASKED = toy_model().edit(Sdpa, but(masks=(part(Window, width=5),)))


def costs(model: LM, method: Method) -> list[float]:
    """Bits of every target."""
    charges = np.zeros(TEXT.targets)
    with closing(method.player(model, VOCAB, CPU, ALONE)) as player:
        score(player, TEXT, method, charges=charges)
    return charges.tolist()


@pytest.mark.parametrize("scaling", [part(Ntk, reference=16, length=32), part(Yarn, reference=16, length=32)])
@pytest.mark.parametrize("model", [toy_model(), MASKED])
def test_it_is_the_model_with_that_scaling_and_its_own_masks(model: Spec[LM], scaling: Spec[Scaling]) -> None:
    trained, twin = built(model), built(model.edit(Rope, but(scaling=scaling)))
    methods: tuple[Spec[Method], ...] = (part(Contiguous, window=32), part(Sliding, window=32, stride=8))
    for plain in methods:
        stretched = costs(trained, plain.but(stretch=scaling)())
        assert stretched == costs(twin, plain()) != costs(trained, plain())


@pytest.mark.parametrize("kind", [Ntk, Yarn])
@pytest.mark.parametrize("reference", [32, 64])
def test_no_longer_than_in_training_is_bit_identical(kind: type[Scaling], reference: int) -> None:
    own = part(Ntk, reference=4, length=8)  # what the model was trained with stays, too
    model = built(toy_model().edit(Rope, but(scaling=own)))
    scaling = part(kind, reference=reference, length=32)
    assert costs(model, Contiguous(window=32, stretch=scaling)) == costs(model, Contiguous(window=32))


@pytest.mark.parametrize("own", [None, part(Yarn, reference=4, length=8)])
def test_the_model_itself_never_changes(own: Spec[Scaling] | None) -> None:
    model = built(toy_model().edit(Rope, but(scaling=own)) if own else toy_model())
    before, ids = costs(model, Contiguous(window=32)), torch.from_numpy(TEXT.tokens[None, :32])
    scaled = Contiguous(window=32, stretch=part(Ntk, reference=8, length=32))
    with torch.no_grad():
        logits = model(ids)
        with closing(scaled.player(model, VOCAB, CPU, ALONE)):
            assert torch.equal(model(ids), logits)
    assert costs(model, scaled) != costs(model, Contiguous(window=32)) == before


@pytest.mark.parametrize("kind", [Ntk, Yarn])
def test_compiled_graphs_of_two_scalings_and_none_are_told_apart(
    kind: type[Scaling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process scores the same model with several methods: a graph must not serve another scaling."""
    monkeypatch.setattr(compiled_function, "compiled", traced)
    torch._dynamo.reset()
    model, tokens, places = built(toy_model()), torch.from_numpy(TEXT.tokens[None, :64]), torch.arange(64)
    found = list[torch.Tensor]()
    for scaling in (None, kind(reference=32, length=64), kind(reference=16, length=64), None):
        graph = Compiled(model, CPU, 64, kernels_for(model, CPU, 64), scaling)
        with torch.no_grad():
            found.append(graph(tokens, places))
            assert torch.equal(found[-1], Eager(model, CPU, scaling)(tokens, places))
    assert torch.equal(found[0], found[3]) and not torch.equal(found[1], found[2])


def traced(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Traced as one graph, as on CUDA, and run without generated code."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")


def test_lengths_that_are_not_the_windows_are_errors() -> None:
    for method in (part(Contiguous, window=64), part(Sliding, window=64)):
        with pytest.raises(RecipeError, match="stretched to 32 tokens for windows of 64"):
            method.but(stretch=part(Ntk, reference=16, length=32))()


def test_a_model_without_rotary_positions_has_none_to_stretch() -> None:
    model = built(toy_model().edit(Attention, but(qk=())))
    with pytest.raises(RecipeError, match="no rotary positions"):
        Contiguous(window=32, stretch=part(Ntk, reference=16, length=32)).player(model, VOCAB, CPU, ALONE)
