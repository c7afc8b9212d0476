"""SwiGLU and the activation functions against their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import replace
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import Activation, WeightTransform
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import LeakyReLU, NormedSwiGLU, ReLU, SquaredLeakyReLU, SquaredReLU, SwiGLU
from bitgolf.model.part import only
from helpers.toy import VOCAB, built, toy_model

torch.set_num_threads(1)
AT = BuildContext(vocab=VOCAB, dim=32, layers=3, layer=0)


class Halved(WeightTransform):
    """Halves a matrix, to show which matrices a chain acts on."""

    def forward(self, w: Tensor) -> Tensor:
        return 0.5 * w


def test_swiglu_against_its_formula() -> None:
    torch.manual_seed(0)
    branch, x = SwiGLU(AT, hidden=24), torch.randn(2, 5, 32)
    branch.down.weight.data.normal_()
    up, gate, down = (m.weight.double() for m in (branch.up, branch.gate, branch.down))
    g = x.double() @ gate.T
    expected = (g / (1 + torch.exp(-g)) * (x.double() @ up.T)) @ down.T
    assert (branch(x) - expected).abs().max() < 1e-5
    assert [tuple(w.shape) for w in (up, gate, down)] == [(24, 32), (24, 32), (32, 24)]


def test_swiglu_with_a_norm_before_its_last_matrix_against_the_formula() -> None:
    """One matrix, the gate first; outputs have the scale of `down`, whatever the scale of the input."""
    torch.manual_seed(0)
    branch, x = part(NormedSwiGLU, hidden=24)(AT).double(), torch.randn(2, 5, 32).double()
    assert torch.equal(branch(x), torch.zeros_like(x)) and branch.gate_up.weight.shape == (48, 32)
    branch.down.weight.data.normal_()
    g, u = x @ branch.gate_up.weight[:24].T, x @ branch.gate_up.weight[24:].T
    hidden = g / (1 + torch.exp(-g)) * u
    expected = hidden / hidden.square().mean(-1, keepdim=True).sqrt() @ branch.down.weight.T
    assert torch.allclose(branch(x), expected, atol=1e-5)


def test_swiglu_starts_silent_and_its_gate_saturates_to_nothing() -> None:
    branch, x = SwiGLU(AT, hidden=24), torch.ones(1, 1, 32)
    assert torch.equal(branch(x), torch.zeros(1, 1, 32)) and branch.gate.weight.abs().max() > 0
    branch.down.weight.data.normal_()
    branch.gate.weight.data.fill_(-10.0)
    assert branch(x).abs().max() < 1e-6, "silu of a large negative number is 0, for any output of `up`"
    branch.gate.weight.data.fill_(10.0 / 32)
    linear = 10.0 * branch.down(branch.up(x))
    assert torch.allclose(branch(x), linear, rtol=1e-3, atol=1e-5), "silu of a large positive number is the number"


@pytest.mark.parametrize("name", ["up", "gate", "down"])
def test_swiglu_names_its_matrices(name: str) -> None:
    linear = part(Linear, weight_transforms=(only("*", part(Halved), on=name),))
    model = built(toy_model().edit("block", replace(mlp=part(SwiGLU, hidden=24, linear=linear))))
    views = {path for path, m in model.named_modules() if isinstance(m, Halved)}
    assert views == {f"blocks.{i}.mlp.{name}.weight_transforms.0" for i in range(3)}


def test_swiglu_has_no_activation_to_choose() -> None:
    with pytest.raises(RecipeError, match=r"takes no argument 'act'"):
        part(SwiGLU, hidden=24, act=part(ReLU))  # type: ignore[call-arg]


def values(act: Activation, *at: float) -> tuple[list[float], list[float]]:
    """Values and derivatives of an activation function at the points `at`."""
    u = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    y = act(u)
    (slope,) = torch.autograd.grad(y.sum(), u)
    return y.tolist(), slope.tolist()


@pytest.mark.parametrize(
    ("act", "y", "slope"),
    [
        (ReLU(AT), [0, 0, 0.5, 3], [0, 0, 1, 1]),
        (LeakyReLU(AT), [-0.02, -0.01, 0.5, 3], [0.01, 0.01, 1, 1]),
        (LeakyReLU(AT, slope=0.3), [-0.6, -0.3, 0.5, 3], [0.3, 0.3, 1, 1]),
        (SquaredReLU(AT), [0, 0, 0.25, 9], [0, 0, 1, 6]),
        (SquaredLeakyReLU(AT, slope=0.5), [1, 0.25, 0.25, 9], [-1, -0.5, 1, 6]),
        (SquaredLeakyReLU(AT, slope=0.3), [0.36, 0.09, 0.25, 9], [-0.36, -0.18, 1, 6]),
    ],
)
def test_activations_and_their_gradients(act: Activation, y: list[float], slope: list[float]) -> None:
    ours = values(act, -2.0, -1.0, 0.5, 3.0)
    assert ours[0] == pytest.approx(y) and ours[1] == pytest.approx(slope)


def test_leaky_squared_by_its_published_form() -> None:
    """(max(u, 0) + 0.5 min(u, 0))^2 is never negative; its derivative is 2u above zero and 0.5u below."""
    u = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    y = SquaredLeakyReLU(AT, slope=0.5)(u)
    (slope,) = torch.autograd.grad(y.sum(), u)
    assert (y >= 0).all() and torch.allclose(y, (u.clamp(min=0) + 0.5 * u.clamp(max=0)).square())
    assert torch.allclose(slope, torch.where(u > 0, 2 * u, 0.5 * u))
