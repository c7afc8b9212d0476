"""Seeds needed, noise floor and corrections, against simulation and known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from bitgolf.errors import UsageError
from bitgolf.significance.mean_tests import welch
from bitgolf.significance.planning import after_tries, holm, noise_floor, power, seeds_needed


def test_power_is_that_of_a_simulation() -> None:
    random, tries = np.random.default_rng(1), 3000
    new, old = random.normal(-3.0, 1, (tries, 4)), random.normal(0, 1, (tries, 4))
    tests: Any = stats.ttest_ind(new + 0.5, old, axis=1, alternative="less")
    found = np.mean(tests.pvalue < 0.01)
    assert power(3.0, 1.0, 4, margin=0.5, alpha=0.01) == pytest.approx(found, abs=3 * (0.25 / tries) ** 0.5)


def test_the_seeds_needed_are_the_fewest() -> None:
    for improvement in (0.8, 1.5, 4.0):
        n = seeds_needed(improvement, 1.0, margin=0.2)
        assert n and power(improvement, 1.0, n, margin=0.2, alpha=0.01) >= 0.8
        assert n == 2 or power(improvement, 1.0, n - 1, margin=0.2, alpha=0.01) < 0.8


def test_the_published_bar() -> None:
    """Three seeds each with a spread of 0.0015 nats: an improvement of 0.0096 is just enough for 0.005 at p < 0.01."""
    spread = [-0.0015, 0.0, 0.0015]
    assert welch([x - 0.0097 for x in spread], spread, margin=0.005).p < 0.01
    assert welch([x - 0.0095 for x in spread], spread, margin=0.005).p > 0.01


def test_an_improvement_within_the_margin_needs_no_number() -> None:
    assert seeds_needed(0.004, 0.001, margin=0.005) is None
    assert seeds_needed(1e-9, 1.0, margin=0.0) is None
    with pytest.raises(UsageError):
        seeds_needed(1.0, 0.0, margin=0.0)


def test_the_noise_floor_covers_the_truth() -> None:
    random = np.random.default_rng(2)
    floors = [noise_floor(random.normal(0, 0.5, (4, 3)).tolist()) for _ in range(400)]
    assert 0.92 < np.mean([floor.low < 0.5 < floor.high for floor in floors]) < 0.98
    assert {floor.degrees for floor in floors} == {8}
    with pytest.raises(UsageError):
        noise_floor([[1.0], [2.0]])


def test_the_noise_floor_ignores_differences_between_groups() -> None:
    near, far = noise_floor([[1.0, 1.25], [1.0, 1.25]]), noise_floor([[1.0, 1.25], [5.0, 5.25]])
    assert near == far


def test_many_tries_cost() -> None:
    assert after_tries(0.01, 1) == pytest.approx(0.01)
    assert after_tries(0.01, 20) == pytest.approx(1 - 0.99**20)
    assert after_tries(1.0, 3) == 1
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    with pytest.raises(UsageError):
        after_tries(0.5, 0)


def test_the_best_of_many_is_no_record_after_the_correction() -> None:
    random, tries, false = np.random.default_rng(3), 600, 0
    for _ in range(tries):
        ps = [welch(a.tolist(), b.tolist()).p for a, b in random.normal(0, 1, (10, 2, 3))]
        false += after_tries(min(ps), 10) < 0.05
    assert false / tries < 0.05 + 3 * (0.05 * 0.95 / tries) ** 0.5
