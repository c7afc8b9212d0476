"""Contra-Muon against its published formula in float64, and the properties of its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitgolf.config.spec import part
from bitgolf.optim.contra_muon import ContraMuon, estimated_spectral_norm
from bitgolf.optim.gram_newton_schulz import GramNewtonSchulz
from bitgolf.optim.muon import Muon
from bitgolf.optim.muon_transforms import NorMuon, RowBlockSplit, RowNorm
from bitgolf.optim.orthogonalize import ConvergentNewtonSchulz, NewtonSchulz
from bitgolf.optim.schedules import Constant
from bitgolf.runtime.progress import TrainingProgress


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def published_update(x: Tensor, strength: float) -> Tensor:
    """The update of modded-nanogpt's pull request 275 for one matrix, in the dtype of x (written from its formula)."""
    y = x / (x.norm() + 1e-7)
    if x.shape[0] > x.shape[1]:
        y = y.T
    for _ in range(12):
        gram = y @ y.T
        y = 2 * y + (-1.5 * gram + 0.5 * gram @ gram) @ y
    y = y.T if x.shape[0] > x.shape[1] else y
    v = torch.ones(x.shape[1], dtype=x.dtype) / x.shape[1] ** 0.5
    for _ in range(5):
        u = x @ v
        v = x.T @ (u / u.norm())
        v = v / v.norm()
    changed = y - strength / 2 * x / (x @ v).norm()
    return changed * y.norm() / changed.norm()


@pytest.mark.parametrize("shape", [(8, 8), (12, 6), (6, 12)])
def test_three_steps_are_the_published_ones(shape: tuple[int, int]) -> None:
    mu, lr = 0.95, 0.0375
    muon = Muon(lr=lr, momentum=part(Constant, value=mu), orthogonalize=part(ContraMuon))
    params, want = [randn(*shape)], randn(*shape).double()
    state, mean = muon.init_state(params), torch.zeros(shape, dtype=torch.float64)
    for step in range(3):
        grad = randn(*shape, seed=step + 1)
        muon.step(params, [grad], state, TrainingProgress(step, 9, 0.0, 0.0), 1.0)
        mean = mu * mean + (1 - mu) * grad.double()
        update = published_update((1 - mu) * grad.double() + mu * mean, 0.4)
        want = want - lr * max(1.0, shape[0] / shape[1]) ** 0.5 * update
    torch.testing.assert_close(params[0].double(), want, atol=1e-6, rtol=0)


def test_no_strength_is_the_base() -> None:
    x = randn(3, 8, 5)
    for base in (part(NewtonSchulz), part(GramNewtonSchulz, base=part(ConvergentNewtonSchulz))):
        assert torch.equal(ContraMuon(base=base, strength=0.0)(x), base()(x))
        assert (ContraMuon(base=base, strength=0.4)(x) - base()(x)).abs().max() > 0.01


def test_strong_directions_get_smaller_steps() -> None:
    """Singular values s, relative to the largest, become 1 - 0.2 s, up to a common factor."""
    left, _ = torch.linalg.qr(randn(8, 8, seed=1))
    right, _ = torch.linalg.qr(randn(8, 8, seed=2))
    values = torch.linspace(1.0, 0.05, 8)
    got = ContraMuon()(left * values @ right.T * 37.0)
    kept = (left.T @ got @ right).diagonal()
    torch.testing.assert_close(kept / kept[-1], (1 - 0.2 * values) / (1 - 0.2 * 0.05), atol=0.02, rtol=0)
    torch.testing.assert_close(got.norm(), torch.tensor(8.0).sqrt(), atol=1e-4, rtol=0)


def test_matrices_of_a_stack_are_independent_and_zero_stays() -> None:
    x = randn(3, 6, 4) * torch.tensor([1e-3, 0.0, 1e3])[:, None, None]
    got = ContraMuon()(x)
    assert not got[1].any() and got.isfinite().all()
    for i in (0, 2):
        torch.testing.assert_close(got[i], ContraMuon()(x[i]), atol=1e-6, rtol=0)


def test_the_spectral_norm_is_estimated_from_below() -> None:
    x = randn(20, 8, 12)
    exact = torch.linalg.matrix_norm(x, ord=2)[:, None, None]
    assert (estimated_spectral_norm(x) <= exact * (1 + 1e-6)).all()
    torch.testing.assert_close(estimated_spectral_norm(x, 200), exact, rtol=1e-3, atol=0)
    assert (estimated_spectral_norm(x) > 0.8 * exact).all()


def test_twelve_steps_converge_to_the_polar_factor() -> None:
    left, _ = torch.linalg.qr(randn(16, 16, seed=1))
    values = torch.logspace(0, -2.5, 16)
    got = ConvergentNewtonSchulz().iterate(left * values)
    kept = torch.linalg.svdvals(got)
    assert kept.max() <= 1 + 1e-5 and kept.min() > 0.998


def test_it_combines_with_the_other_transforms() -> None:
    muon = part(Muon, orthogonalize=part(ContraMuon), split=part(RowBlockSplit, rows=4))
    muon = muon.replace(pre_orthogonalize=(part(RowNorm),), post_orthogonalize=(part(NorMuon),))
    params, grad = [torch.zeros(8, 6)], randn(8, 6)
    built = muon()
    built.step(params, [grad], built.init_state(params), TrainingProgress(0, 9, 0.0, 0.0), 1.0)
    rows = RowNorm()(1.85 * grad, {})
    blocks = ContraMuon()(rows.unflatten(0, (2, 4))).flatten(0, 1)
    want = NorMuon()(blocks, torch.zeros(8, 1))
    torch.testing.assert_close(params[0] / -built.lr, want * (8 / 6) ** 0.5, atol=1e-5, rtol=0)
