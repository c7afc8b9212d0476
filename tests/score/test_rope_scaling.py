"""RoPE scaling of a scoring method equals that of a recipe, and does not change the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from bitgolf.config.edits import replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import SDPACore, SlidingWindowMask
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.rope_scaling import NTKScaling, RoPEScaling, YaRNScaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import SINGLE_PROCESS
from bitgolf.score.execution import compiled_function
from bitgolf.score.execution.forward import CompiledForward, EagerForward
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")
TEXT = TokenizedText(np.concatenate([[1], np.random.default_rng(0).integers(2, VOCAB, 120), [1]]), 300)
MASKED = toy_model().edit(SDPACore, replace(masks=(part(SlidingWindowMask, left=5),)))


def costs(model: LM, method: ScoringMethod) -> list[float]:
    """Bits of each target."""
    charges = np.zeros(TEXT.num_targets)
    with closing(method.make_player(model, VOCAB, CPU, SINGLE_PROCESS)) as player:
        score(player, TEXT, method, charges=charges)
    return charges.tolist()


@pytest.mark.parametrize(
    "scaling", [part(NTKScaling, original_length=16, length=32), part(YaRNScaling, original_length=16, length=32)]
)
@pytest.mark.parametrize("model", [toy_model(), MASKED])
def test_it_is_the_model_with_that_scaling_and_its_own_masks(model: Spec[LM], scaling: Spec[RoPEScaling]) -> None:
    trained, twin = built(model), built(model.edit(RoPE, replace(scaling=scaling)))
    methods: tuple[Spec[ScoringMethod], ...] = (
        part(ContiguousScoring, window=32),
        part(SlidingScoring, window=32, stride=8),
    )
    for plain in methods:
        stretched = costs(trained, plain.replace(rope_scaling=scaling)())
        assert stretched == costs(twin, plain()) != costs(trained, plain())


@pytest.mark.parametrize("kind", [NTKScaling, YaRNScaling])
@pytest.mark.parametrize("reference", [32, 64])
def test_no_longer_than_in_training_is_bit_identical(kind: type[RoPEScaling], reference: int) -> None:
    own = part(NTKScaling, original_length=4, length=8)  # the scaling that the model was trained with must stay active
    model = built(toy_model().edit(RoPE, replace(scaling=own)))
    scaling = part(kind, original_length=reference, length=32)
    assert costs(model, ContiguousScoring(window=32, rope_scaling=scaling)) == costs(
        model, ContiguousScoring(window=32)
    )


@pytest.mark.parametrize("own", [None, part(YaRNScaling, original_length=4, length=8)])
def test_the_model_itself_never_changes(own: Spec[RoPEScaling] | None) -> None:
    model = built(toy_model().edit(RoPE, replace(scaling=own)) if own else toy_model())
    before, ids = costs(model, ContiguousScoring(window=32)), torch.from_numpy(TEXT.tokens[None, :32])
    scaled = ContiguousScoring(window=32, rope_scaling=part(NTKScaling, original_length=8, length=32))
    with torch.no_grad():
        logits = model(ids)
        with closing(scaled.make_player(model, VOCAB, CPU, SINGLE_PROCESS)):
            assert torch.equal(model(ids), logits)
    assert costs(model, scaled) != costs(model, ContiguousScoring(window=32)) == before


@pytest.mark.parametrize("kind", [NTKScaling, YaRNScaling])
def test_compiled_graphs_of_two_scalings_and_none_are_told_apart(
    kind: type[RoPEScaling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process scores a model with several methods: a graph must not be reused for another scaling."""
    monkeypatch.setattr(compiled_function, "compile_graph", traced)
    torch._dynamo.reset()
    model = built(toy_model().set("layers", 1))
    tokens, places = torch.from_numpy(TEXT.tokens[None, :64]), torch.arange(64)
    found = list[torch.Tensor]()
    for scaling in (None, kind(original_length=32, length=64), kind(original_length=16, length=64), None):
        graph = CompiledForward(model, CPU, 64, None, scaling)
        with torch.no_grad():
            found.append(graph(tokens, places))
            assert torch.equal(found[-1], EagerForward(model, CPU, scaling)(tokens, places))
    assert torch.equal(found[0], found[3]) and not torch.equal(found[1], found[2])


def traced(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile as one graph, as on CUDA, but without generated code."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")


def test_lengths_that_are_not_the_windows_are_errors() -> None:
    for method in (part(ContiguousScoring, window=64), part(SlidingScoring, window=64)):
        with pytest.raises(RecipeError, match="has length 32, but the window has 64 tokens"):
            method.replace(rope_scaling=part(NTKScaling, original_length=16, length=32))()


def test_a_model_without_rotary_positions_has_none_to_stretch() -> None:
    model = built(toy_model().edit(Attention, replace(qk=())))
    with pytest.raises(RecipeError, match="no rotary positions"):
        ContiguousScoring(window=32, rope_scaling=part(NTKScaling, original_length=16, length=32)).make_player(
            model, VOCAB, CPU, SINGLE_PROCESS
        )
