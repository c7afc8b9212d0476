"""Initializers: the properties of the matrices that they fill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.model.inits import NormalInit, OrthogonalInit, PowerLawSpectrumInit, UniformFanInInit, ZeroInit
from bitgolf.model.linear import Embedding, Linear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def filled(
    init: NormalInit | OrthogonalInit | PowerLawSpectrumInit | UniformFanInInit | ZeroInit, *shape: int
) -> Tensor:
    weight = torch.full(shape, 7.0)
    with torch.no_grad():
        init.fill(weight)
    return weight


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_orthogonal_has_all_singular_values_alike(shape: tuple[int, int], gain: float) -> None:
    w = filled(OrthogonalInit(gain=gain), *shape)
    small = w @ w.T if shape[0] <= shape[1] else w.T @ w
    assert torch.allclose(small, gain**2 * torch.eye(min(shape)), atol=1e-5)


def test_orthogonal_leaves_small_matrices_uniform() -> None:
    w = filled(OrthogonalInit(gain=5.0), 63, 400)
    assert w.abs().max() <= 1 / 20
    assert w.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)
    assert torch.linalg.svdvals(filled(OrthogonalInit(min_side=8), 63, 400)).allclose(torch.ones(()), atol=1e-5)


def test_orthogonal_does_not_reach_a_matrix_that_starts_at_zero() -> None:
    at = BuildContext(vocab=8, dim=64).for_matrix(64, 64, zero=True)
    assert not part(Linear, init=part(OrthogonalInit))(at).weight.any()


def test_zeros_normal_and_uniform() -> None:
    assert not filled(ZeroInit(), 5, 7).any()
    assert filled(NormalInit(std=0.3), 200, 100).std().item() == pytest.approx(0.3, rel=0.03)
    assert filled(NormalInit(), 200, 100).std().item() == pytest.approx(0.1, rel=0.03)
    uniform = filled(UniformFanInInit(), 200, 100)
    assert 0.099 < uniform.abs().max() <= 0.1


@pytest.mark.parametrize("shape", [(50, 20), (20, 50)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_overtone_has_a_power_law_for_spectrum(shape: tuple[int, int], power: float) -> None:
    values = torch.linalg.svdvals(filled(PowerLawSpectrumInit(power=power), *shape))
    assert torch.allclose(values / values[0], torch.arange(1, 21) ** -power, rtol=1e-4)


def test_overtone_keeps_the_singular_vectors_and_the_first_value() -> None:
    torch.manual_seed(3)
    drawn = filled(NormalInit(std=0.005), 50, 20)
    torch.manual_seed(3)
    shaped = filled(PowerLawSpectrumInit(std=0.005), 50, 20)
    left, values, right = torch.linalg.svd(drawn, full_matrices=False)
    inside = left.T @ shaped @ right.T / values[0]
    assert torch.allclose(inside, torch.diag(torch.arange(1, 21) ** -0.5), atol=1e-4)


def test_overtone_fills_an_embedding() -> None:
    table = part(Embedding, init=part(PowerLawSpectrumInit))(BuildContext(vocab=40, dim=16)).effective_weight()
    assert (torch.linalg.svdvals(table)[3] / torch.linalg.svdvals(table)[0]).item() == pytest.approx(0.5, rel=1e-3)
