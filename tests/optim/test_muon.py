"""Muon compared with the steps of the published scripts and with torch.optim.Muon, and its invariances."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.spec import Spec, part
from bitgolf.optim.muon import Muon
from bitgolf.optim.orthogonalize import PolarExpress
from bitgolf.optim.schedules import Constant, LinearRamp, Schedule
from bitgolf.runtime.progress import TrainingProgress

SHAPES = ["64x64", "128x64", "64x128"]
RAMP: Spec[Schedule] = part(LinearRamp, start=0.85, end=0.95, steps=2)
STILL: Spec[Schedule] = part(Constant, value=0.9)


def at(step: int) -> TrainingProgress:
    return TrainingProgress(step, 100, 0.0, 0.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(muon: Muon, start: list[Tensor], grads: list[list[Tensor]], lr_scale: float = 1.0) -> list[Tensor]:
    """The parameters after training from `start` with the given gradients, one list per step."""
    params = [p.clone() for p in start]
    state = muon.init_state(params)
    for step, each in enumerate(grads):
        muon.step(params, each, state, at(step), lr_scale)
    return params


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "oracles/optim_muon.safetensors")


@pytest.mark.parametrize(
    ("variant", "weight_decay"), [("baseline_ns5", 0.0), ("gram_ns", 0.04), ("bank_ns5_pr1512", 0.04)]
)
def test_published_steps(oracle: dict[str, Tensor], variant: str, weight_decay: float) -> None:
    muon = Muon(momentum=RAMP, weight_decay=weight_decay)
    params = [oracle[f"w0/{s}"].clone() for s in SHAPES]
    state = muon.init_state(params)
    checked = 0
    for step, lr in enumerate(oracle["lr"].tolist()):
        grads = [oracle[f"grad/step{step + 1}/{s}"] for s in SHAPES]
        muon.step(params, grads, state, at(step), lr / muon.lr)
        for s, p in zip(SHAPES, params, strict=True):
            if (want := oracle.get(f"{variant}/step{step + 1}/{s}")) is not None:
                torch.testing.assert_close(p, want, atol=5e-7, rtol=0)
                checked += 1
    assert checked in (3, 9)
    torch.testing.assert_close(state["momentum"][0], oracle["momentum_buffer_after3/64x64"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_torch_muon_is_the_same_in_bfloat16(nesterov: bool) -> None:
    """torch.optim.Muon iterates in bfloat16. Its momentum has a factor (1 - mu), which orthogonalization removes."""
    start, lr = randn(24, 16, seed=1), 0.05
    grads = [randn(24, 16, seed=10 + i) for i in range(4)]
    theirs = torch.nn.Parameter(start.clone())
    oracle = torch.optim.Muon([theirs], lr=lr, weight_decay=0.1, momentum=0.9, nesterov=nesterov)
    for g in grads:
        theirs.grad = g.clone()
        oracle.step()
    muon = Muon(lr=lr, momentum=STILL, nesterov=nesterov, weight_decay=0.1)
    (ours,) = trained(muon, [start], [[g] for g in grads])
    other = Muon(lr=lr, momentum=STILL, nesterov=not nesterov, weight_decay=0.1)
    error = (ours - theirs).norm() / (theirs - start).norm()
    wrong = (trained(other, [start], [[g] for g in grads])[0] - theirs).norm() / (theirs - start).norm()
    assert error < 0.03 < wrong


def test_grouping_by_shape_changes_nothing() -> None:
    shapes = [(16, 8), (8, 16), (16, 8), (8, 8), (16, 8), (8, 16)]
    start = [randn(*s, seed=i) for i, s in enumerate(shapes)]
    grads = [[randn(*s, seed=100 * k + i) * 10**i for i, s in enumerate(shapes)] for k in range(3)]
    muon = Muon(weight_decay=0.1)
    together = trained(muon, start, grads)
    for i, got in enumerate(together):
        (alone,) = trained(muon, [start[i]], [[each[i]] for each in grads])
        torch.testing.assert_close(got, alone, atol=1e-6, rtol=0)


def test_leading_axes_are_a_stack() -> None:
    start, grad = randn(3, 16, 8), randn(3, 16, 8, seed=1)
    (whole,) = trained(Muon(), [start], [[grad]])
    slices = trained(Muon(), list(start), [list(grad)])
    torch.testing.assert_close(whole, torch.stack(slices), atol=1e-6, rtol=0)


def test_scale_of_gradients_is_forgotten() -> None:
    start, grads = [randn(16, 16)], [[randn(16, 16, seed=k)] for k in range(1, 4)]
    plain = trained(Muon(), start, grads)
    scaled = trained(Muon(), start, [[1e4 * g for g in each] for each in grads])
    torch.testing.assert_close(scaled, plain, atol=1e-6, rtol=0)
    assert (plain[0] - start[0]).abs().max() > 0.01


def test_weight_decay_acts_without_a_gradient_and_shrinks_with_the_schedule() -> None:
    start = randn(8, 8)
    (got,) = trained(Muon(lr=0.1, weight_decay=0.5), [start], [[torch.zeros(8, 8)]], lr_scale=0.2)
    torch.testing.assert_close(got, start * (1 - 0.1 * 0.2 * 0.5))


def test_tall_matrices_take_longer_steps() -> None:
    """All singular values of an update are close to lr sqrt(max(1, m/n))."""
    for m, n, factor in [(64, 16, 2.0), (16, 64, 1.0), (16, 16, 1.0)]:
        (update,) = trained(Muon(lr=1.0, orthogonalize=part(PolarExpress)), [torch.zeros(m, n)], [[randn(m, n)]])
        values = torch.linalg.svdvals(update) / factor
        assert values.min() > 0.85 and values.max() < 1.15


def test_without_momentum_only_the_last_gradient_counts() -> None:
    muon = Muon(momentum=part(Constant, value=0.0))
    start, last = torch.zeros(8, 8), randn(8, 8)
    (a,) = trained(muon, [start], [[last]])
    (b,) = trained(muon, [start], [[randn(8, 8, seed=5)], [last]])
    (c,) = trained(muon, [start], [[randn(8, 8, seed=5)]])
    torch.testing.assert_close(b - c, a, atol=1e-7, rtol=0)
