"""The compiled forward equals the eager one for batches of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.model.block import Block as Layer
from bitgolf.model.lm import LM
from bitgolf.model.mlp import SquaredLeakyReLU
from bitgolf.runtime.device import Device
from bitgolf.score.execution import compiled_function, kernels
from bitgolf.score.execution.forward import (
    MIN_PADDED_LENGTH,
    CompiledForward,
    EagerForward,
    kernel_selector,
    padded_length,
    power_of_two,
)
from bitgolf.score.execution.kernels import KernelSelector, random_documents
from bitgolf.score.player import ScoringBatch, StaticPlayer
from bitgolf.training.kernels.fused import FusedMLP
from bitgolf.training.kernels.select import KernelDecision, KernelSelection, kernel_candidates
from helpers.examples import examples
from helpers.toy import VOCAB, built, toy_model

CPU = Device(torch.device("cpu"), torch.float32, "a test")


def whole(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile as one graph, as on CUDA, but without generated code."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled_function, "compile_graph", whole)
    torch._dynamo.reset()  # dynamo would reuse a graph for every model with the same parts and shapes
    with torch.no_grad():
        yield


def compiled_for(model: LM, longest: int = 128) -> CompiledForward:
    return CompiledForward(model, CPU, longest, KernelSelector()(model, CPU, longest))


def block(*windows: tuple[int, int], seed: int = 0) -> ScoringBatch:
    """A batch with one row for each (length, number of targets)."""
    generator = torch.Generator().manual_seed(seed)
    shown = [(torch.randint(1, VOCAB, (length,), generator=generator), asked) for length, asked in windows]
    return ScoringBatch.collate(shown, torch.zeros(len(windows), dtype=torch.bool))


BLOCKS = [
    block((128, 128), (128, 128)),
    block((128, 5), (128, 128)),
    block((128, 16), (128, 16), (100, 9), (0, 0)),
    block(*[(40, 40)] * 7),
    block((3, 1)),
    block((200, 200), (17, 4)),  # longer than the specified maximum
    block((128, 128), (60, 60)),
]


def test_every_shape_of_block_gives_the_eager_logits() -> None:
    model = built(toy_model().set("layers", 1)).double()
    plain, fixed = EagerForward(model, CPU), compiled_for(model)
    for own in BLOCKS:
        wanted = plain(own.tokens, own.target_indices)
        found = fixed(own.tokens, own.target_indices)
        assert found.shape == wanted.shape == (int(own.target_mask.sum()), VOCAB)
        assert (found - wanted).abs().max() < 1e-9


def test_shapes_are_few() -> None:
    model, shapes = built(toy_model().set("layers", 1)), set[tuple[int, ...]]()
    fixed = compiled_for(model)
    fixed.hidden = lambda tokens: shapes.add(tuple(tokens.shape)) or torch.zeros(tokens.numel(), 32)  # pyright: ignore
    for length in range(1, 129):
        own = block(*[(length, length)] * (256 // length))
        fixed(own.tokens, own.target_indices)
    assert {length for _, length in shapes} == {64, 128} and len(shapes) == 2


def test_the_time_of_making_graphs_is_known() -> None:
    fixed = compiled_for(built(toy_model().set("layers", 1)))
    own = BLOCKS[0]
    fixed(own.tokens, own.target_indices)
    first = fixed.compile_seconds
    fixed(own.tokens, own.target_indices)
    assert fixed.compile_seconds == first > 0


@given(length=st.integers(1, 5000), longest=st.integers(0, 4096))
@settings(max_examples=examples(300), deadline=None)
def test_a_padded_length_holds_the_row_and_wastes_at_most_half(length: int, longest: int) -> None:
    padded = padded_length(length, longest)
    assert padded >= length and (padded < 2 * max(length, MIN_PADDED_LENGTH) or padded == longest < MIN_PADDED_LENGTH)
    whole = longest if length <= longest else power_of_two(length)
    assert padded in {whole >> halvings for halvings in range(14)}


@given(number=st.floats(0.1, 1e6))
def test_a_power_of_two_is_the_least_that_holds_a_number(number: float) -> None:
    assert number <= power_of_two(number) and (power_of_two(number) / 2 < number or number <= 1)


def test_places_are_where_a_block_asks() -> None:
    own = block((4, 2), (0, 0), (3, 3))
    assert own.target_indices.tolist() == [2, 3, 8, 9, 10]
    assert torch.equal(own.tokens.flatten()[own.target_indices], own.tokens[own.target_mask])


def test_a_hidden_state_is_asked_for_only_where_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head, whose output is the largest tensor, computes only the targets, padded to a power of two."""
    model, seen = built(toy_model()), list[int]()

    def counted(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return model.head(x, model.embed)

    monkeypatch.setattr(model, "logits", counted)
    monkeypatch.setattr(compiled_function, "compile_graph", lambda function, device: function)
    own = block((128, 5), (128, 6))
    compiled_for(model)(own.tokens, own.target_indices)
    assert seen == [16]


# ---- kernels -------------------------------------------------------------------------------------------------------


def fused_branches(calls: list[dict[str, Any]]) -> Callable[..., KernelSelection]:
    """A stand-in for `select_kernels` that always selects the fused branch."""

    def choose(root: LM, inputs: Sequence[Tensor], device: Device, **words: Any) -> KernelSelection:
        calls.append({"shape": tuple(inputs[0].shape), **words})
        found = list(kernel_candidates(root, compiled=True))
        verdicts = [KernelDecision("fused" * ("fused" in site.fused), "a test") for site in found]
        return KernelSelection(root, found, verdicts, root.bos, print)

    return choose


def test_kernels_are_chosen_once_for_a_kind_of_model_and_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = toy_model().set("block.mlp.act", part(SquaredLeakyReLU))
    calls, models = list[dict[str, Any]](), [built(spec, seed=seed) for seed in range(2)]
    monkeypatch.setattr(kernels, "select_kernels", fused_branches(calls))
    select = KernelSelector()
    plain = [[type(m) for m in model.modules()] for model in models]
    for model in models:
        choice = select(model, CPU, 128)
        assert {type(block.mlp) for block in cast(list[Layer], list(model.blocks))} == {FusedMLP}
        assert "MLP with SquaredLeakyReLU: fused (a test)" in choice.summary
        CompiledForward(model, CPU, 128, choice).close()
    assert [[type(m) for m in model.modules()] for model in models] == plain
    assert len(calls) == 1 and calls[0]["shape"] == (256, 128) and not calls[0]["backward"] and calls[0]["compiled"]
    select(models[0], CPU, 128, backward=True).restore()
    select(models[0], CPU, 256).restore()
    assert [call["backward"] for call in calls] == [False, True, False], "another use or length needs its own decision"
    KernelSelector()(models[0], CPU, 256).restore()
    assert len(calls) == 4, "another selector has its own cache"


def test_kernels_are_tried_on_documents_that_are_nobodys_text() -> None:
    ids = random_documents(VOCAB, 1, 512)
    assert ids.shape == (64, 512) and bool((ids[:, 0] == 1).all()) and int(ids.min()) >= 0 and int(ids.max()) < VOCAB
    assert 64 < int((ids == 1).sum()) < 64 * 6
    assert torch.equal(ids, random_documents(VOCAB, 1, 512)) and random_documents(VOCAB, 1, 100_000).shape == (
        1,
        100_000,
    )


def test_the_cpu_stays_plain_and_eager() -> None:
    player = StaticPlayer(built(toy_model()), VOCAB, CPU)
    assert kernel_selector(CPU) is None
    assert type(player.forward) is EagerForward and player.forward.kernels == () and player.forward.compile_seconds == 0


def test_a_limit_bounds_the_tokens_of_a_graph() -> None:
    model, shapes = built(toy_model()).double(), list[tuple[int, ...]]()
    fixed = compiled_for(model)
    inner = fixed.hidden
    fixed.hidden = lambda tokens: shapes.append(tuple(tokens.shape)) or inner(tokens)  # pyright: ignore
    fixed.set_max_tokens(300)
    own = block(*[(128, 3)] * 5)
    assert (
        fixed(own.tokens, own.target_indices) - EagerForward(model, CPU)(own.tokens, own.target_indices)
    ).abs().max() < 1e-9
    assert shapes == [(2, 128)] * 3
