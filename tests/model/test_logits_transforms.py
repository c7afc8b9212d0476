"""Logits transforms against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.model.logits_transforms import QuinticCap, SigmoidCap, Softcap, VocabBias
from bitgolf.model.parameters import parameter_roles

torch.set_num_threads(1)
V = 11
AT = BuildContext(vocab=V)


def gradient(cap: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(cap(z).sum(), z)[0]


def test_softcap_is_a_shifted_sigmoid_with_the_same_cross_entropy() -> None:
    z = torch.linspace(-300, 300, 2001, dtype=torch.float64)
    soft, sigmoid = Softcap(AT, cap=30.0), SigmoidCap(AT, scale=60.0, shift=0.0, width=15.0)
    assert (sigmoid(z) - soft(z) - 30).abs().max() < 1e-13
    logits, targets = 20 * torch.randn(50, V, dtype=torch.float64), torch.randint(V, (50,))
    losses = [torch.nn.functional.cross_entropy(cap(logits), targets).item() for cap in (soft, sigmoid)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-13)


def test_the_slope_of_softcap() -> None:
    z = torch.linspace(-90, 90, 181, dtype=torch.float64)
    assert torch.allclose(gradient(Softcap(AT, cap=30.0), z), 1 - torch.tanh(z / 30).square())


def test_sigmoid_cap_against_its_formula_and_its_asymmetry() -> None:
    z = torch.linspace(-60, 60, 1201, dtype=torch.float64)
    capped = SigmoidCap(AT)(z)
    assert torch.allclose(capped, 23 / (1 + torch.exp(-(z + 5) / 7.5))) and capped.min() > 0 and capped.max() < 23
    slope = gradient(SigmoidCap(AT), z)
    assert z[slope.argmax()].item() == pytest.approx(-5) and (capped.diff() > 0).all()


def test_quintic_cap_follows_its_polynomial_until_it_saturates() -> None:
    u = torch.linspace(-1.689, 1.689, 339, dtype=torch.float64)
    assert torch.allclose(QuinticCap(AT, cap=10.0)(10 * u), 10 * (u - u**3 / 3 + u**5 / 15))
    assert (QuinticCap(AT)(10 * u).diff() > 0).all() and (gradient(QuinticCap(AT), 10 * u) > 0).all()


def test_quintic_cap_saturates_flat_from_1_69() -> None:
    """Without the outer clip, the polynomial would rise to 22/15 at u = 2."""
    z = torch.tensor([-1e6, -20.0, -16.9, 16.9, 17.0, 20.0, 1e6], dtype=torch.float64)
    assert torch.equal(QuinticCap(AT, cap=10.0)(z), 10 * z.sign())
    assert torch.equal(gradient(QuinticCap(AT, cap=10.0), z), torch.zeros_like(z))


def test_vocab_bias_adds_one_number_for_each_token_and_starts_at_none() -> None:
    bias, z = VocabBias(AT), torch.randn(2, 3, V)
    assert torch.equal(bias(z), z) and parameter_roles(bias) == {"weight": "scale"}
    bias.weight.data.copy_(torch.arange(float(V)))
    assert torch.equal(bias(z), z + torch.arange(V))
