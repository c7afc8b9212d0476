"""Gram Newton-Schulz equals the plain iteration."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim import gram_newton_schulz
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz, gram_quintic_iterations
from bitgolf.optim.orthogonalize import (
    NewtonSchulz,
    PolarExpress,
    PolynomialOrthogonalizer,
    SafePolarExpress,
    frobenius_normalized,
    quintic_iterations,
)

TABLES: list[Spec[PolynomialOrthogonalizer]] = [part(NewtonSchulz), part(PolarExpress), part(SafePolarExpress)]
SHAPES = [(6, 20), (20, 6), (12, 12), (3, 8, 30), (2, 3, 30, 8)]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.cls.__name__)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("restart", [0, 1, 2, 4, 9])
def test_equals_the_plain_form_in_float64(
    table: Spec[PolynomialOrthogonalizer], shape: tuple[int, ...], restart: int
) -> None:
    x, triples = frobenius_normalized(randn(*shape)), table().coefficients
    torch.testing.assert_close(
        gram_quintic_iterations(x, triples, restart), quintic_iterations(x, triples), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize(("table", "error"), list(zip(TABLES, [2e-2, 5e-2, 2e-2], strict=True)))
def test_equals_the_plain_form_in_bfloat16(table: Spec[PolynomialOrthogonalizer], error: float) -> None:
    """In bfloat16 as well, within tolerances; Polar Express without a safety factor has the largest rounding errors."""
    x = randn(32, 128).float()
    node = table.replace(precision="bfloat16")
    got, want = GramNewtonSchulz(base=node)(x), table()(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=error, rtol=0)
    assert (got - want).abs().max() > 1e-5  # shows that it ran in bfloat16


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_number_of_steps_counts(steps: int) -> None:
    """The setting `steps` takes effect. The published kernels always took five steps."""
    x = randn(8, 24).float()
    node = part(PolarExpress, steps=steps)
    torch.testing.assert_close(GramNewtonSchulz(base=node)(x), node()(x), atol=1e-5, rtol=0)
    assert len(GramNewtonSchulz(base=node).coefficients) == steps


def test_published_value(oracle: dict[str, Tensor]) -> None:
    got = GramNewtonSchulz()(oracle["grad/step1/128x64"])
    torch.testing.assert_close(got, oracle["ortho/gram5/128x64"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles/optim_muon.safetensors")


@pytest.mark.parametrize("node", [part(GramNewtonSchulz), part(NewtonSchulz)], ids=["gram", "plain"])
@pytest.mark.parametrize("shape", [(4, 20, 6), (4, 6, 20), (20, 6), (6, 6)])
def test_results_are_contiguous_and_zeros_stay(node: Spec[PolynomialOrthogonalizer], shape: tuple[int, ...]) -> None:
    x = randn(*shape).float()
    assert node()(x).is_contiguous()
    x[..., :] = 0
    assert not node()(x).any()


def test_square_matrices_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_newton_schulz, "gram_quintic_iterations", lambda *args: pytest.fail("the Gram form"))
    x = randn(3, 8, 8).float()
    assert torch.equal(GramNewtonSchulz()(x), NewtonSchulz()(x))
    with pytest.raises(pytest.fail.Exception):
        GramNewtonSchulz()(x[:, :5])


def test_it_multiplies_the_long_side_only_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """X takes part in four products (two per segment between restarts), against ten in the plain iteration."""
    touches: list[tuple[int, ...]] = []
    original = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: touches.append(tuple(b.shape)) or original(a, b))
    GramNewtonSchulz()(randn(1, 4, 40).float())
    assert touches == [(1, 40, 4), (1, 4, 40)] * 2


@pytest.mark.parametrize("safety", [1.0, 1.05])
def test_band_of_the_cushioned_table(safety: float) -> None:
    start = torch.logspace(-3, 0, 4001, dtype=torch.float64).view(-1, 1, 1)
    end = quintic_iterations(start, SafePolarExpress(safety_factor=safety).coefficients)
    low = {1.0: 0.876, 1.05: 0.728}[safety]
    assert low < end.min() < low + 2e-3 and 1.123 < end.max() < 1.125


@pytest.mark.parametrize(
    "node",
    [
        partial(part, GramNewtonSchulz, restart_step=-1),
        partial(part, SafePolarExpress, steps=6),
        partial(part, SafePolarExpress, safety_factor=0.9),
    ],
)
def test_settings_that_do_not_exist(node: partial[Spec[PolynomialOrthogonalizer]]) -> None:
    with pytest.raises(RecipeError):
        node()
