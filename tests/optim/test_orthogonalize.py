"""Newton-Schulz and Polar Express: published values, intervals of singular values, equivariance, batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.orthogonalize import (
    NewtonSchulz,
    Orthogonalizer,
    PolarExpress,
    PolynomialOrthogonalizer,
    quintic_iterations,
)
from helpers.examples import examples

BOTH = [part(NewtonSchulz), part(PolarExpress)]


def matrix(spectrum: Tensor, m: int, n: int, seed: int = 0) -> Tensor:
    """An m x n matrix in float32 with the given min(m, n) singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(m, len(spectrum), generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, len(spectrum), generator=generator, dtype=torch.float64))
    return (left * spectrum.double() @ right.mT).float()


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles/optim_muon.safetensors")


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("ns5", part(NewtonSchulz)),
        ("ns3", part(NewtonSchulz, steps=3)),
        ("gram5", part(NewtonSchulz)),  # the same map, computed in another order
        ("polar_express5", part(PolarExpress)),
        ("polar_express3", part(PolarExpress, steps=3)),
    ],
)
def test_published_orthogonalizers(oracle: dict[str, Tensor], name: str, node: Spec[Orthogonalizer]) -> None:
    got = node()(oracle["grad/step1/128x64"])
    torch.testing.assert_close(got, oracle[f"ortho/{name}/128x64"], atol=1e-5, rtol=0)


def test_published_bank_has_a_norm_for_each_slice(oracle: dict[str, Tensor]) -> None:
    bank = torch.stack([oracle["grad/step1/128x64"], 3 * oracle["grad/step2/128x64"]])
    got = PolarExpress()(bank)
    torch.testing.assert_close(got, oracle["ortho_bank/polar_express5/2x128x64"], atol=2e-6, rtol=0)


def test_bfloat16_is_the_published_one_up_to_rounding(oracle: dict[str, Tensor]) -> None:
    got = NewtonSchulz(precision="bfloat16")(oracle["grad/step1/128x64"])
    assert got.dtype == torch.float32
    want, exact = oracle["ortho_bf16_original/ns5/128x64"], NewtonSchulz()(oracle["grad/step1/128x64"])
    assert (got - want).norm() < 0.04 * want.norm()  # the rounding error of the script is 0.03 relative to float32
    assert 1e-3 < (got - exact).norm() / exact.norm() < 0.02  # shows that it ran in bfloat16, with fewer roundings


@pytest.mark.parametrize(
    ("node", "least", "low", "high"),
    [
        (part(NewtonSchulz), 1e-2, 0.68, 1.135),
        (part(NewtonSchulz), 1e-3, 0.47, 1.203),
        (part(PolarExpress), 1e-3, 0.8588, 1.1412),
    ],
)
def test_band_of_singular_values(node: Spec[PolynomialOrthogonalizer], least: float, low: float, high: float) -> None:
    """Every singular value in [least, 1] is mapped into the interval, scanned with 1 x 1 matrices in float64."""
    start = torch.logspace(torch.log10(torch.tensor(least)).item(), 0, 4001, dtype=torch.float64).view(-1, 1, 1)
    end = quintic_iterations(start, node().coefficients)
    assert low <= end.min() and end.max() <= high
    assert end.max() - end.min() > 0.1  # the interval is not wider than necessary


@pytest.mark.parametrize("node", BOTH, ids=["newton-schulz", "polar-express"])
@settings(max_examples=examples(20), deadline=None)
@given(m=st.integers(1, 24), n=st.integers(1, 24), seed=st.integers(0, 99))
def test_result_is_nearly_the_polar_factor(node: Spec[Orthogonalizer], m: int, n: int, seed: int) -> None:
    spectrum = torch.linspace(0.3, 1.0, min(m, n))
    x = matrix(spectrum, m, n, seed)
    got = node()(x)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    assert got.shape == x.shape
    core = left.mT @ got @ right.mT  # diagonal if the singular vectors are unchanged
    torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-4, rtol=0)
    assert core.diagonal().min() > 0.67 and core.diagonal().max() < 1.15


@pytest.mark.parametrize("node", BOTH, ids=["newton-schulz", "polar-express"])
def test_rotation_equivariance_and_scale_invariance(node: Spec[Orthogonalizer]) -> None:
    x = matrix(torch.linspace(0.1, 1, 12), 12, 20)
    p, q = matrix(torch.ones(12), 12, 12, 1), matrix(torch.ones(20), 20, 20, 2)
    orth = node()
    torch.testing.assert_close(orth(p @ x @ q), p @ orth(x) @ q, atol=2e-5, rtol=0)
    torch.testing.assert_close(orth(1000 * x), orth(x), atol=2e-5, rtol=0)
    torch.testing.assert_close(orth(-x), -orth(x), atol=0, rtol=0)
    torch.testing.assert_close(orth(x.mT), orth(x).mT, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 16, 8), (3, 8, 16), (2, 3, 8, 8)])
def test_a_stack_equals_one_by_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[..., 0, :, :] *= 100  # would change the result if the stack shared one norm
    x[-1] = 0
    orth = NewtonSchulz()
    got = orth(x).reshape(-1, *shape[-2:])
    for one, each in zip(got, x.reshape(-1, *shape[-2:]), strict=True):
        torch.testing.assert_close(one, orth(each), atol=1e-6, rtol=0)
    assert not orth(x)[-1].any()  # a zero matrix stays zero


@pytest.mark.parametrize(
    "node",
    [
        partial(part, PolarExpress, steps=6),
        partial(part, PolarExpress, steps=0),
        partial(part, NewtonSchulz, steps=0),
    ],
)
def test_numbers_of_steps_that_do_not_exist(node: partial[Spec[Orthogonalizer]]) -> None:
    with pytest.raises(RecipeError, match="step"):
        node()
