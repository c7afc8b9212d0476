"""Honest players pass the audit in every configuration. A seed gives one configuration; `make cheats` tests all of them, too."""

from __future__ import annotations

import pytest

from attacks.evaluations.tables import HONEST_CONFIGURATIONS
from attacks.random_configurations import METHODS, audit_random_configuration

CONFIGURATIONS = [
    *range(len(METHODS)),  # one of each method
    *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(len(METHODS), HONEST_CONFIGURATIONS)),
]


@pytest.mark.parametrize("seed", CONFIGURATIONS)
def test_no_false_alarm(seed: int) -> None:
    name, found = audit_random_configuration(seed)
    assert not found.findings, f"{name}: {found.findings}"
