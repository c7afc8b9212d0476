"""Compiled Muon: one graph per shape of stack, the same values as without compilation, and state kept in stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import part
from bitgolf.optim.algorithm import CompileFunction
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowBlockSplit, RowNorm
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.schedules import LinearRamp, PiecewiseLinear
from bitgolf.optim.stacked_group import StackedParameterGroup
from bitgolf.runtime.progress import TrainingProgress

SHAPES = {"a.0": (8, 4), "b.0": (4, 8), "a.1": (8, 4), "b.1": (4, 8)}
STEPS = 5
FULL = part(
    Muon,
    momentum=part(LinearRamp, start=0.85, end=0.95, steps=4),
    weight_decay=0.1,
    weight_decay_schedule=part(PiecewiseLinear, points=((0.4, 1.0), (0.85, 0.65), (1.0, 1.5))),
    cautious_weight_decay=True,
    pre_orthogonalize=(part(RowNorm),),
    post_orthogonalize=(part(NorMuon),),
    split=part(RowBlockSplit, rows=2),
)


class Counted:
    """Compiles with a backend that runs the graph unchanged, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            self.graphs += 1
            return graph.forward

        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(
    compiling: CompileFunction | None = None, *, muon: Any = FULL, steps: int = STEPS
) -> tuple[Optimizer, list[Tensor]]:
    """An optimizer after several steps with a different learning rate in each, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    params = {path: nn.Parameter(torch.randn(shape, generator=generator)) for path, shape in SHAPES.items()}
    optimizer = Optimizer(params, dict.fromkeys(params, "matrix"), (part(Rule, where="matrix", use=muon),))
    if compiling:
        optimizer.compile(compiling)
    for step in range(steps):
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.reduce_gradients()
        optimizer.step(TrainingProgress(step, STEPS, 0.0, 0.0), 1 - step / STEPS)
        optimizer.zero_grad()
    return optimizer, [p.detach() for p in params.values()]


def test_schedules_make_no_further_graph() -> None:
    """Learning rate, momentum and weight decay change in each of five steps, but each of two shapes has one graph."""
    counted = Counted()
    graph, plain = run(counted)[1], run()[1]
    assert counted.graphs == 2
    assert all(torch.equal(a, b) for a, b in zip(graph, plain, strict=True))


def test_autograds_graph_has_the_same_numbers() -> None:
    compiling = lambda f: torch.compile(f, fullgraph=True, dynamic=False, backend="aot_eager")  # noqa: E731
    graph, plain = run(compiling)[1], run()[1]
    torch.testing.assert_close(graph, plain, atol=1e-6, rtol=1e-6)


def test_momentum_stays_in_its_stack() -> None:
    """The named state consists of views of the stack: loading fills the stack, and a step does not stack again."""
    optimizer, _ = run(steps=1)
    (group,) = optimizer.groups
    assert isinstance(group, StackedParameterGroup)
    stacks = [state["momentum"][0] for state in group.states]
    addresses = [stack.data_ptr() for stack in stacks]
    assert [tuple(stack.shape) for stack in stacks] == [(2, 8, 4), (2, 4, 8)]
    views = {name.removesuffix("/momentum"): t for name, t in group.named_state() if name.endswith("momentum")}
    assert {path: tuple(t.shape) for path, t in views.items()} == SHAPES
    assert torch.equal(stacks[0][1], views["a.1"]) and views["a.1"].data_ptr() == stacks[0][1].data_ptr()
    optimizer.load_state_dict({name: torch.full_like(t, 3.0) for name, t in optimizer.state_dict().items()})
    assert all(bool((stack == 3.0).all()) for stack in stacks)
    assert [state["momentum"][0].data_ptr() for state in group.states] == addresses


def test_momentum_in_bfloat16_is_near() -> None:
    """bfloat16 momentum, as in the published scripts with parameter banks. The state has this dtype as well."""
    optimizer, rough = run(muon=FULL.replace(momentum_dtype="bfloat16"))
    _, exact = run()
    assert {t.dtype for name, t in optimizer.state_dict().items() if name.endswith("momentum")} == {torch.bfloat16}
    error = max(float((a - b).abs().max()) for a, b in zip(rough, exact, strict=True))
    assert 0 < error < 0.02 * STEPS * 0.1
