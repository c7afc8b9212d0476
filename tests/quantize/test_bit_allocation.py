"""Bit allocation: relative steps by sensitivity, and the global step that meets the bit budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import RecipeError
from bitgolf.quantize.codecs.bit_allocation import (
    EqualCost,
    EqualRate,
    LogSteps,
    RateHistogram,
    gaussian_bits,
    local_std,
    rate_histogram,
)
from bitgolf.quantize.stats import MatrixStats, identity_stats
from helpers.examples import examples


def gaussian(rows: int, columns: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def sensitive(rows: int, columns: int, seed: int) -> tuple[MatrixStats, torch.Tensor]:
    """Output Fisher and pivots that vary, by less than `min_sensitivity`."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.exp(0.7 * torch.randn(rows, generator=generator))
    pivots = 3 * torch.exp(0.7 * torch.randn(columns, generator=generator))
    return MatrixStats(torch.eye(columns), outputs, 10), pivots


def flat_steps(w: torch.Tensor) -> LogSteps:
    return LogSteps(torch.zeros(w.shape[0]), torch.zeros(w.shape[1]))


def squares(steps: LogSteps) -> torch.Tensor:
    return (2.0 * (steps.rows[:, None] + steps.columns)).exp2()


@given(seed=st.integers(0, 200), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_equal_cost_makes_every_error_cost_the_same(seed: int, rows: int, columns: int) -> None:
    stats, pivots = sensitive(rows, columns, seed)
    steps = EqualCost().log_steps(gaussian(rows, columns, seed), stats, pivots)
    assert (squares(steps) * stats.output_fisher[:, None] * pivots).numpy() == pytest.approx(1, rel=1e-4)


def test_matrices_weigh_as_they_cost_or_as_they_are() -> None:
    """With `matrices=False` the steps follow the standard deviation of the matrix, whatever its sensitivity."""
    stats, pivots = sensitive(16, 8, 0)
    w, dearer = gaussian(16, 8), stats._replace(output_fisher=9 * stats.output_fisher)
    together = [EqualCost().log_steps(w, s, pivots) for s in (stats, dearer)]
    assert (squares(together[0]) / squares(together[1])).numpy() == pytest.approx(9, rel=1e-4)
    alone = [EqualCost(matrices=False).log_steps(v, s, pivots) for s in (stats, dearer) for v in (w, 4 * w)]
    for steps, scale in zip(alone, (1, 4, 1, 4), strict=True):
        assert (squares(steps) / squares(alone[0])).numpy() == pytest.approx(scale**2, rel=1e-4)
        mean = float(steps.rows.mean() + steps.columns.mean())
        assert mean == pytest.approx(math.log2(scale * float(w.square().mean().sqrt())), abs=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (False, False)])
def test_what_is_switched_off_is_level_and_keeps_its_mean(rows: bool, columns: bool) -> None:
    stats, pivots = sensitive(12, 9, 1)
    w = gaussian(12, 9)
    steps, whole = (
        EqualCost(rows=rows, columns=columns).log_steps(w, stats, pivots),
        EqualCost().log_steps(w, stats, pivots),
    )
    assert float(steps.rows.mean()) == pytest.approx(float(whole.rows.mean()), abs=1e-5)
    assert float(steps.columns.mean()) == pytest.approx(float(whole.columns.mean()), abs=1e-5)
    assert (float(np.ptp(steps.rows.numpy())) > 0.1) == rows and (float(np.ptp(steps.columns.numpy())) > 0.1) == columns


def test_what_calibration_never_saw_is_not_free() -> None:
    outputs = torch.tensor([0.0, 1.0, 2.0, 1.0])
    steps = EqualCost(min_sensitivity=0.01).log_steps(
        gaussian(4, 3), MatrixStats(torch.eye(3), outputs, 1), torch.ones(3)
    )
    assert float(steps.rows[0] - steps.rows[1]) == pytest.approx(math.log2(100) / 2, abs=1e-4)
    nothing = EqualCost().log_steps(gaussian(4, 3), MatrixStats(torch.eye(3), torch.zeros(4), 1), torch.ones(3))
    assert torch.isfinite(nothing.rows).all() and float(np.ptp(nothing.rows.numpy())) == 0
    for floor in (0.0, -1.0, 1.5):
        with pytest.raises(RecipeError):
            EqualCost(min_sensitivity=floor)


def test_equal_rate_is_a_share_of_every_row() -> None:
    w = gaussian(50, 64) * torch.logspace(-1, 1, 50)[:, None]
    steps = EqualRate().log_steps(w, identity_stats(50, 64), torch.ones(64))
    assert (w.square().mean(1).sqrt() / steps.rows.exp2()).numpy() == pytest.approx(1, rel=1e-4)
    assert not steps.columns.any()
    w[3] = 0.0
    assert torch.isfinite(EqualRate().log_steps(w, identity_stats(50, 64), torch.ones(64)).rows).all()


# ---- the budget ----------------------------------------------------------------------------------------------------


def test_bits_of_a_gaussian_weight() -> None:
    assert gaussian_bits(np.array([0.0]))[0] == 0
    assert gaussian_bits(np.array([100.0]))[0] == pytest.approx(2.0471 + math.log2(100), abs=1e-3)
    assert gaussian_bits(np.array([1 / 0.4194]), rate=0.0)[0] == pytest.approx(3.31, abs=0.01)


def test_bits_of_a_search_that_minds_them() -> None:
    """`gaussian_bits` with rate 1, against entropies measured with 8 to 256 states on Gaussian columns."""
    measured = {4: 4.044, 2.8: 3.526, 2: 3.036, 1.4: 2.510, 1: 2.008, 0.7: 1.466, 0.35: 0.135}
    assert gaussian_bits(np.array(list(measured))) == pytest.approx(list(measured.values()), abs=0.03)


@settings(max_examples=examples(60), deadline=None)
@given(target=st.floats(0.2, 7), seed=st.integers(0, 50), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_the_unit_meets_the_budget_of_all_matrices_together(target: float, seed: int, scale: float) -> None:
    stats, pivots = sensitive(40, 24, seed)
    a, b = gaussian(40, 24, seed, scale), gaussian(10, 24, seed, 0.1 * scale)
    both = [(a, EqualCost().log_steps(a, stats, pivots)), (b, flat_steps(b))]
    unit = rate_histogram(both).solve_global_step(target)
    cost = [gaussian_bits((local_std(w) / (0.5 * squares(s).log2() + unit).exp2()).numpy()) for w, s in both]
    assert np.concatenate([c.reshape(-1) for c in cost]).mean() == pytest.approx(target, abs=0.02)


def test_fewer_bits_take_a_larger_unit() -> None:
    w = gaussian(64, 64)
    found = rate_histogram([(w, flat_steps(w))])
    units = [found.solve_global_step(target) for target in np.linspace(0.1, 7, 40)]
    assert (np.diff(units) < 0).all()
    assert found.solve_global_step(5.0) == pytest.approx(
        2.047 - 5 + math.log2(float(w.square().mean().sqrt())), abs=0.05
    )
    twice = rate_histogram([(2 * w, flat_steps(w))])
    assert twice.solve_global_step(3.0) == pytest.approx(found.solve_global_step(3.0) + 1, abs=1e-6)


def test_matrices_without_weights_to_speak_of_have_a_unit() -> None:
    for found in (RateHistogram(), rate_histogram([(torch.zeros(3, 4), flat_steps(torch.zeros(3, 4)))])):
        assert math.isfinite(found.solve_global_step(3.0))


def test_spreads_are_those_of_rows_and_columns() -> None:
    rows, columns = torch.logspace(-1, 1, 300), torch.logspace(-0.5, 0.5, 200)
    found = local_std(gaussian(300, 200) * rows[:, None] * columns)
    assert (found / (rows[:, None] * columns)).log().square().mean().sqrt() < 0.12
    assert (local_std(torch.zeros(3, 4)) >= 0).all() and torch.isfinite(local_std(torch.zeros(3, 4)).log2()).all()
