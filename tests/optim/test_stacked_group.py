"""Stacking and sharding of matrices, tested in one process without communication."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitgolf.config.spec import part
from bitgolf.optim import stacked_group
from bitgolf.optim.matrix_stack import MatrixStack
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowNorm
from bitgolf.optim.stacked_group import StackedParameterGroup
from bitgolf.runtime.distributed import AsyncTensor, DistributedContext
from bitgolf.runtime.progress import TrainingProgress
from helpers.examples import examples


def make(shapes: list[tuple[int, ...]]) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {f"p{i}": nn.Parameter(torch.randn(s, generator=generator)) for i, s in enumerate(shapes)}


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.sampled_from([(), (1,), (3,), (2, 2)]), min_size=1, max_size=6), st.integers(1, 8))
def test_stacking_is_bit_exact_both_ways(leads: list[tuple[int, ...]], size: int) -> None:
    params = make([(*lead, 4, 3) for lead in leads])
    tensors: list[Tensor] = [p.detach() for p in params.values()]
    stack = MatrixStack(params, DistributedContext(0, size), torch.float32)
    whole = stack.stack_gradients(tensors)
    count = sum(t.numel() for t in tensors) // 12
    assert whole.shape[0] % size == 0 and whole.shape[0] - count < size
    assert not whole[count:].any()
    assert all(torch.equal(a, b) for a, b in zip(stack.unstack(whole), tensors, strict=True))
    stacks = [MatrixStack(params, DistributedContext(rank, size), torch.float32) for rank in range(size)]
    assert torch.equal(torch.cat([each.shard_of(tensors) for each in stacks]), whole)
    assert torch.equal(torch.cat([each.stack_weights() for each in stacks]), whole)
    stack.weights.copy_(whole + 1)
    stack.unstack_weights()
    assert all(torch.equal(p, t) for p, t in zip(params.values(), stack.unstack(whole + 1), strict=True))


def test_close_removes_the_hooks() -> None:
    params = make([(4, 3), (4, 3)])
    group = StackedParameterGroup("muon.0", "*", Muon(), params, DistributedContext(0, 2))
    hooks = [p._post_accumulate_grad_hooks for p in params.values()]
    assert all(len(each) == 1 for each in hooks)
    group.close()
    assert not any(hooks)


def test_memories_of_rows_are_stacked_alike() -> None:
    params = make([(4, 3), (2, 4, 3)])
    rows = [torch.rand(4, 1), torch.rand(2, 4, 1)]
    stacks = [MatrixStack(params, DistributedContext(rank, 2), torch.float32) for rank in range(2)]
    shares = [stack.shard_of(rows) for stack in stacks]
    assert [share.shape for share in shares] == [(2, 4, 1)] * 2
    assert all(torch.equal(a, b) for a, b in zip(stacks[0].unstack(torch.cat(shares)), rows, strict=True))


def test_padding_stays_zero() -> None:
    """The last of four ranks owns one matrix and one padding matrix, whose momentum, state and update stay zero."""
    muon = Muon(pre_orthogonalize=(part(RowNorm),), post_orthogonalize=(part(NorMuon),), weight_decay=0.1)
    params = make([(6, 4)] * 7)
    stack = MatrixStack(params, DistributedContext(3, 4), torch.float32)
    own = stack.stack_weights()
    state = muon.init_state([own])
    for step in range(3):
        grad = stack.shard_of([torch.randn(6, 4) for _ in params])
        muon.step([own], [grad], state, TrainingProgress(step, 10, 0.0, 0.0), 1.0)
    for tensor in (own, *state["momentum"], *state["after.0"]):
        assert tensor[0].all() and not tensor[1].any()


def test_the_largest_stack_comes_first_and_says_what_is_shared() -> None:
    params = make([(4, 4), (8, 16), (4, 4), (4, 4), (8, 16), (8, 16)])
    group = StackedParameterGroup("muon.0", "matrix", Muon(), params, DistributedContext(0, 2, backend="gloo"))
    assert [stack.paths for stack in group.stacks] == [["p1", "p4", "p5"], ["p0", "p2", "p3"]]
    assert (
        group.sharding_summary
        == "muon.0: each of 2 ranks updates 2 of 3 + 2 of 3 matrices (gradients: all-reduce of whole stacks, by gloo)"
    )


def test_stacks_are_reduced_during_the_last_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stack is reduced once, as soon as all its gradients, summed over micro batches, are complete.

    A stack with unused parameters is left to `reduce_gradients`.
    """
    params = make([(4, 4), (4, 4), (8, 4), (2, 4)])
    group = StackedParameterGroup("muon.0", "matrix", Muon(), params, DistributedContext(0, 2, backend="gloo"))
    late, early, tall, idle = params.values()
    sent: list[tuple[int, ...]] = []

    def fake(stack: Tensor, distributed: DistributedContext) -> AsyncTensor:
        sent.append(tuple(stack.shape))
        return AsyncTensor(stack.clone(), stack)

    monkeypatch.setattr(stacked_group, "reduce_scatter_mean", fake)
    seen: list[int] = []

    def backward() -> None:
        x = torch.eye(4, requires_grad=True)
        x.register_hook(lambda _: seen.append(len(sent)))  # runs at the last gradient
        ((x @ late @ tall.mT).tanh() * early.sum()).sum().backward()

    backward()
    assert not sent
    group.mark_last_backward()
    backward()
    assert seen[0] == 0 < seen[1] and sorted(sent) == [(2, 4, 4), (2, 8, 4)]
    idle.grad = torch.zeros_like(idle)
    group.reduce_gradients()
    assert sorted(sent) == [(2, 2, 4), (2, 4, 4), (2, 8, 4)]
    for stack, pending in zip(group.stacks, (group.pending_reduces[i] for i in range(3)), strict=True):
        for path, got in zip(stack.paths, stack.unstack(pending.wait()), strict=True):
            grad = params[path].grad
            assert grad is not None and torch.equal(got, grad)


@pytest.mark.parametrize(
    ("shard", "size", "want"),
    [("auto", 1, False), ("auto", 2, True), ("on", 1, True), ("on", 2, True), ("off", 1, False), ("off", 2, False)],
)
def test_when_muon_is_sharded(shard: str, size: int, want: bool) -> None:
    assert part(Muon).replace(shard=shard)().is_sharded(DistributedContext(0, size)) is want
