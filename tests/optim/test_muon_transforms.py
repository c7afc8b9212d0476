"""Row norms, NorMuon and paired heads in Muon: published steps, invariances, and references in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowBlockSplit, RowNorm, RowRMSNorm
from bitgolf.optim.orthogonalize import NewtonSchulz, PolarExpress
from bitgolf.optim.schedules import Constant, LinearRamp, Schedule
from bitgolf.runtime.progress import TrainingProgress

SHAPES = ["64x64", "128x64", "64x128"]
RAMP: Spec[Schedule] = part(LinearRamp, start=0.85, end=0.95, steps=2)
NO_MOMENTUM: Spec[Schedule] = part(Constant, value=0.0)
ROWS = (part(RowNorm),)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def update(muon: Muon, *grads: Tensor) -> Tensor:
    """The change of a parameter by the step with the last of these gradients, divided by the learning rate."""
    params = [torch.zeros_like(grads[0])]
    state, before = muon.init_state(params), params[0].clone()
    for step, grad in enumerate(grads):
        before = params[0].clone()
        muon.step(params, [grad], state, TrainingProgress(step, 100, 0.0, 0.0), 1.0)
    return (params[0] - before) / -muon.lr


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles/optim_muon.safetensors")


PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "muoneq_r_pr1493": (0.095, {"pre_orthogonalize": ROWS}),
    "polar_express_rownorm_pr1855": (0.095, {"pre_orthogonalize": ROWS, "orthogonalize": part(PolarExpress)}),
    "gram_ns": (0.04, {"orthogonalize": part(GramNewtonSchulz)}),
    "bank_ns5_pr1512": (0.04, {"orthogonalize": part(GramNewtonSchulz)}),
    "neomuon_640_3steps": (
        0.0,
        {"pre_orthogonalize": (part(RowRMSNorm),), "orthogonalize": part(NewtonSchulz, steps=3)},
    ),
    "paired_heads_rownorm_t1493": (0.095, {"pre_orthogonalize": ROWS}),
}
ROWS_OF_A_PAIR = {"64x64": 32, "128x64": 64, "64x128": 16}


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("shape", SHAPES)
def test_published_steps(oracle: dict[str, Tensor], variant: str, shape: str) -> None:
    weight_decay, settings = PUBLISHED[variant]
    if variant.startswith("paired"):
        settings = settings | {"split": part(RowBlockSplit, rows=ROWS_OF_A_PAIR[shape])}
    muon = part(Muon, momentum=RAMP, weight_decay=weight_decay).replace(**settings)()
    params = [oracle[f"w0/{shape}"].clone()]
    state = muon.init_state(params)
    checked = 0
    for step, lr in enumerate(oracle["lr"].tolist(), 1):
        muon.step(
            params, [oracle[f"grad/step{step}/{shape}"]], state, TrainingProgress(step - 1, 100, 0.0, 0.0), lr / muon.lr
        )
        if (want := oracle.get(f"{variant}/step{step}/{shape}")) is not None:
            torch.testing.assert_close(params[0], want, atol=5e-7, rtol=0)
            checked += 1
    assert checked in (1, 3)


@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
def test_row_norm_forgets_the_scale_of_each_row(shape: tuple[int, int]) -> None:
    x, scales = randn(*shape), torch.logspace(-2, 2, shape[0])[:, None]
    plain, rows = Muon(momentum=NO_MOMENTUM), Muon(momentum=NO_MOMENTUM, pre_orthogonalize=ROWS)
    torch.testing.assert_close(update(rows, x * scales), update(rows, x), atol=1e-5, rtol=0)
    assert (update(plain, x * scales) - update(plain, x)).abs().max() > 0.1


def test_row_norms_of_nothing_are_nothing() -> None:
    x = randn(4, 8)
    x[1] = 0
    for part_ in (RowNorm(), RowRMSNorm()):
        got = part_(x, {})
        assert not got[1].any() and got.isfinite().all()
    torch.testing.assert_close(RowNorm()(torch.full((1, 4), 1e-9), {}), torch.full((1, 4), 1e-2))  # divided by 1e-7


def test_row_rms_is_row_norm_up_to_what_orthogonalization_forgets() -> None:
    x = randn(8, 16) * torch.logspace(0, 2, 8)[:, None]
    torch.testing.assert_close(RowRMSNorm()(x, {}), RowNorm()(x, {}) * 4, atol=1e-5, rtol=1e-5)


# ---- NorMuon -----------------------------------------------------------------------------------------------------


def test_normuon_is_its_formula() -> None:
    """Three steps compared with the formula in float64, applied to the update of plain Muon for the same gradients."""
    grads = [randn(12, 6, seed=k) * torch.linspace(0.1, 3, 12)[:, None] for k in range(3)]
    memory, beta = torch.zeros(12, 1, dtype=torch.float64), 0.9
    for k in range(3):
        o = update(Muon(), *grads[: k + 1]).double()
        memory = beta * memory + (1 - beta) * o.square().mean(1, keepdim=True)
        want = o / (memory.sqrt() + 1e-8)
        want *= o.norm() / want.norm()
        got = update(Muon(post_orthogonalize=(part(NorMuon, beta=beta),)), *grads[: k + 1])
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)


def test_normuon_evens_rows_and_keeps_the_norm() -> None:
    x = randn(3, 16, 8)
    x[:, 3] *= 30
    norm, memory = NorMuon(beta=0.95), torch.zeros(3, 16, 1)
    plain = NewtonSchulz()(x)
    got = plain
    for _ in range(200):
        got = norm(plain, memory)
        torch.testing.assert_close(got.norm(dim=(1, 2)), plain.norm(dim=(1, 2)))
    sizes = got.square().mean(-1).sqrt()
    torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes), rtol=1e-4, atol=0)
    before = plain.square().mean(-1).sqrt()
    assert (before.amax(1) / before.amin(1)).min() > 1.2  # row norms differed before


def test_normuon_leaves_zeros_alone() -> None:
    memory = torch.zeros(2, 4, 1)
    got = NorMuon()(torch.stack([torch.zeros(4, 3), randn(4, 3)]), memory)
    assert not got[0].any() and got.isfinite().all() and not memory[0].any() and memory[1].all()


def test_normuon_has_a_memory_for_each_matrix() -> None:
    """Matrices of one shape are updated as a stack, but each keeps its own state."""
    muon = Muon(post_orthogonalize=(part(NorMuon),))
    grads = [[randn(6, 4, seed=10 * k + i) * 10.0**i for i in range(3)] for k in range(3)]
    params = [torch.zeros(6, 4) for _ in range(3)]
    state, before = muon.init_state(params), params
    for step, each in enumerate(grads):
        before = [p.clone() for p in params]
        muon.step(params, each, state, TrainingProgress(step, 100, 0.0, 0.0), 1.0)
    for i in range(3):
        alone = update(muon, *(each[i] for each in grads))
        torch.testing.assert_close((params[i] - before[i]) / -muon.lr, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [lambda: NorMuon(beta=1.0), lambda: RowBlockSplit(rows=0)])
def test_settings_that_make_no_sense(make: Any) -> None:
    with pytest.raises(RecipeError):
        make()


# ---- paired heads --------------------------------------------------------------------------------------------------

PAIRS = Muon(momentum=NO_MOMENTUM, split=part(RowBlockSplit, rows=8), pre_orthogonalize=ROWS)


def test_pairs_are_independent() -> None:
    """The gradient of one pair of heads does not change the update of another pair."""
    x = randn(24, 16)
    other = x.clone()
    other[8:16] = randn(8, 16, seed=9)
    a, b, whole = update(PAIRS, x), update(PAIRS, other), Muon(momentum=NO_MOMENTUM, pre_orthogonalize=ROWS)
    assert torch.equal(a[:8], b[:8]) and torch.equal(a[16:], b[16:])
    assert (a[8:16] - b[8:16]).abs().max() > 0.1
    assert (update(whole, x)[:8] - update(whole, other)[:8]).abs().max() > 1e-3


def test_permuting_pairs_permutes_the_update() -> None:
    x = randn(24, 16).unflatten(0, (3, 8))
    order = [2, 0, 1]
    got = update(PAIRS, x[order].flatten(0, 1))
    torch.testing.assert_close(got, update(PAIRS, x.flatten(0, 1)).unflatten(0, (3, 8))[order].flatten(0, 1))


def test_each_pair_is_orthogonal_and_the_factor_is_the_whole_matrix_s() -> None:
    muon = Muon(momentum=NO_MOMENTUM, split=part(RowBlockSplit, rows=8), orthogonalize=part(PolarExpress))
    got = update(muon, randn(64, 16)) / 2  # factor of the whole matrix; that of a block is 1
    values = torch.linalg.svdvals(got.unflatten(0, (-1, 8)))
    assert values.min() > 0.85 and values.max() < 1.15
