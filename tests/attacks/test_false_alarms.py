"""Honest players pass the audit in every configuration. A seed gives one configuration; `make cheats` tests 200."""

from __future__ import annotations

import pytest

from attacks.random_configurations import METHODS, audit_random_configuration

CONFIGURATIONS = [
    *range(len(METHODS)),  # one of each method
    *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(len(METHODS), 3 * len(METHODS))),
]


@pytest.mark.parametrize("seed", CONFIGURATIONS)
def test_no_false_alarm(seed: int) -> None:
    name, found = audit_random_configuration(seed)
    assert not found.findings, f"{name}: {found.findings}"
