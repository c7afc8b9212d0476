"""SOAP before orthogonalization: a replay of its published formula in float64, its eigenbases, its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError
from bitgolf.optim.algorithm import CompileFunction
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, PreOrthogonalization, RowNorm
from bitgolf.optim.optimizer import Optimizer
from bitgolf.optim.orthogonalize import ConvergentNewtonSchulz
from bitgolf.optim.schedules import Constant
from bitgolf.optim.soap import SOAP
from bitgolf.runtime.progress import TrainingProgress

MU, EPS = 0.9, 1e-6


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at(step: int) -> TrainingProgress:
    return TrainingProgress(step, 20, 0.0, 0.0)


def muon(*transforms: Spec[PreOrthogonalization]) -> Muon:
    momentum = part(Constant, value=MU)
    return Muon(momentum=momentum, orthogonalize=part(ConvergentNewtonSchulz), pre_orthogonalize=transforms)


def trained(muon: Muon, start: Tensor, grads: list[Tensor]) -> list[Tensor]:
    """The parameter after each step."""
    params, states = [start.clone()], list[Tensor]()
    state = muon.init_state(params)
    for step, grad in enumerate(grads):
        muon.step(params, [grad], state, at(step), 1.0)
        states.append(params[0].clone())
    return states


def orthogonalized(x: Tensor) -> Tensor:
    """Twelve steps of the iteration, not the polar factor: the second update is a matrix of signs, perhaps singular."""
    y = x / x.norm()
    for _ in range(12):
        gram = y @ y.T
        y = 2 * y + (-1.5 * gram + 0.5 * gram @ gram) @ y
    return y


def replay(start: Tensor, grads: list[Tensor], *, interval: int, lr: float, beta: float = 0.9) -> list[Tensor]:
    """The published algorithm for one square matrix in float64, with momentum M <- mu M + G."""
    w, momentum = start.double(), torch.zeros_like(start, dtype=torch.float64)
    m, n = start.shape
    rows, columns = torch.zeros(m, m).double(), torch.zeros(n, n).double()
    second, left, right, found = torch.zeros(m, n).double(), None, None, list[Tensor]()
    for step, grad in enumerate(g.double() for g in grads):
        momentum = MU * momentum + grad
        x = grad + MU * momentum
        if left is not None and right is not None:
            rotated = left.T @ x @ right
            second = beta * second + (1 - beta) * rotated**2
            scaled = left @ (rotated / (second.sqrt() + EPS)) @ right.T
            x = scaled * x.norm() / scaled.norm()
        w = w - lr * max(1.0, m / n) ** 0.5 * orthogonalized(x)
        found.append(w)
        rows, columns = beta * rows + (1 - beta) * grad @ grad.T, beta * columns + (1 - beta) * grad.T @ grad
        if left is None or right is None:
            left, right = (torch.linalg.eigh(each)[1].flip(1) for each in (rows, columns))
        elif step % interval == 0:
            order = torch.argsort((left.T @ rows @ left).diag(), descending=True)
            left, second = torch.linalg.qr(rows @ left[:, order])[0], second[order]
            order = torch.argsort((right.T @ columns @ right).diag(), descending=True)
            right, second = torch.linalg.qr(columns @ right[:, order])[0], second[:, order]
    return found


@pytest.mark.parametrize("interval", [1, 3])
def test_steps_are_those_of_the_formula(interval: int) -> None:
    """A square matrix, whose moments have full rank: in a null space the eigenvectors would be arbitrary."""
    start, grads = randn(6, 6), [randn(6, 6, seed=10 + k) * torch.linspace(0.2, 3, 6) for k in range(8)]
    node = part(SOAP, refresh_interval=interval, eps=EPS)
    built = muon(node)
    got, want = trained(built, start, grads), replay(start, grads, interval=interval, lr=built.lr)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, atol=0.02 * built.lr, rtol=0)
    other = replay(start, grads, interval=4 - interval, lr=built.lr)
    assert (got[-1].double() - other[-1]).abs().max() > 0.1 * built.lr


def test_the_first_step_is_that_of_muon_and_later_ones_are_not() -> None:
    start, grads = randn(8, 5), [randn(8, 5, seed=k + 1) for k in range(3)]
    plain, soap = trained(muon(), start, grads), trained(muon(part(SOAP)), start, grads)
    assert torch.equal(plain[0], soap[0])
    assert (plain[1] - soap[1]).abs().max() > 1e-4


def test_rotated_gradients_give_rotated_updates() -> None:
    """In its eigenbasis the method does not depend on the coordinates, unlike Adam's scaling."""
    left, right = (torch.linalg.qr(randn(6, 6, seed=90 + k))[0] for k in range(2))
    grads = [randn(6, 6, seed=k) * torch.linspace(0.2, 3, 6) for k in range(6)]
    start = randn(6, 6, seed=50)
    node = part(SOAP, eps=EPS)
    a = trained(muon(node), start, grads)
    b = trained(muon(node), left @ start @ right.T, [left @ grad @ right.T for grad in grads])
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(left @ x @ right.T, y, atol=2e-3, rtol=0)


def test_orthogonal_iteration_finds_the_eigenbasis() -> None:
    """With a constant moment, the refreshed bases become its eigenvectors by decreasing eigenvalue."""
    soap, param = SOAP(), torch.zeros(2, 5, 4)
    left = torch.linalg.qr(randn(2, 5, 5, seed=1))[0]
    right = torch.linalg.qr(randn(2, 4, 4, seed=2))[0]
    grad = left[..., :4] * torch.tensor([8.0, 4.0, 2.0, 1.0]) @ right.mT
    state = soap.init_state(param)
    soap.observe(randn(2, 5, 4, seed=3), state, 0)
    for step in range(1, 300):
        soap.observe(grad, state, step)
    for name, vectors in (("row_basis", left[..., :4]), ("column_basis", right)):
        overlap = (vectors.mT @ state[name])[..., :4].abs()
        torch.testing.assert_close(overlap, torch.eye(4).expand(2, 4, 4), atol=1e-3, rtol=0)


def test_a_refresh_moves_the_second_moment_with_its_directions() -> None:
    """The moments' eigenvalues change places: the second moment of each direction keeps its value."""
    soap, grad = SOAP(beta=0.5), torch.diag(torch.tensor([3.0, 2.0]))
    state = soap.init_state(grad)
    soap.observe(grad, state, 0)
    state["second_moment"].copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    soap.observe(torch.diag(torch.tensor([1.0, 9.0])), state, 1)
    assert torch.equal(state["second_moment"], torch.tensor([[4.0, 3.0], [2.0, 1.0]]))


def test_zero_matrices_stay_zero() -> None:
    soap, x = SOAP(), torch.stack([torch.zeros(4, 3), randn(4, 3)])
    state = soap.init_state(x)
    for step in range(4):
        got = soap(x, state)
        assert not got[0].any() and got.isfinite().all() and got[1].any()
        torch.testing.assert_close(got[1].norm(), x[1].norm())
        soap.observe(x, state, step)


def test_a_gradient_that_is_not_finite_is_an_error_at_the_first_step() -> None:
    soap, grad = SOAP(), torch.full((4, 3), float("nan"))
    with pytest.raises(BitgolfError, match="not finite"):
        soap.observe(grad, soap.init_state(grad), 0)


# ---- in the optimizer ----------------------------------------------------------------------------------------------

SHAPES = {"a.0": (6, 4), "b": (2, 4, 6), "a.1": (6, 4)}
USE = part(
    Muon,
    pre_orthogonalize=(part(SOAP, refresh_interval=2), part(RowNorm)),
    post_orthogonalize=(part(NorMuon),),
)


class Toy:
    """An optimizer with synthetic gradients."""

    def __init__(self, compiling: CompileFunction | None = None) -> None:
        self.params = {path: nn.Parameter(randn(*shape)) for path, shape in SHAPES.items()}
        rules = (part(Rule, where="matrix", use=USE),)
        self.optimizer = Optimizer(self.params, dict.fromkeys(SHAPES, "matrix"), rules)
        if compiling:
            self.optimizer.compile(compiling)

    def steps(self, first: int, last: int) -> list[Tensor]:
        for step in range(first, last):
            for i, p in enumerate(self.params.values()):
                p.grad = randn(*p.shape, seed=100 * step + i)
            self.optimizer.reduce_gradients()
            self.optimizer.step(at(step), 1 - step / 20)
            self.optimizer.zero_grad()
        return [p.detach() for p in self.params.values()]


def test_a_resumed_run_has_the_same_bits() -> None:
    whole, half, again = Toy(), Toy(), Toy()
    want = whole.steps(0, 7)
    half.steps(0, 4)
    with torch.no_grad():
        for path, p in again.params.items():
            p.copy_(half.params[path])
    again.optimizer.load_state_dict({name: t.clone() for name, t in half.optimizer.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(again.steps(4, 7), want, strict=True))
    fresh = Toy().steps(4, 7)
    assert not all(torch.equal(a, b) for a, b in zip(fresh, want, strict=True))


def test_each_parameter_has_its_own_state_by_name() -> None:
    state = Toy().optimizer.state_dict()
    assert state["muon.0/a.0/before.0.row_moment"].shape == (6, 6)
    assert state["muon.0/b/before.0.row_basis"].shape == (2, 4, 4)
    assert state["muon.0/b/before.0.observed"].shape == (2, 1, 1)
    assert not any("before.1" in name for name in state)  # RowNorm has no state


def test_the_compiled_step_has_the_same_values() -> None:
    torch._dynamo.reset()
    graphs = []

    def compiling(function: Any) -> Any:
        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
            graphs.append(graph)
            return graph.forward

        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    assert all(torch.equal(a, b) for a, b in zip(Toy(compiling).steps(0, 5), Toy().steps(0, 5), strict=True))
    assert len(graphs) == 2  # one for each shape of stack
    torch._dynamo.reset()
