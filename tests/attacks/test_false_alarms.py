"""Honest players pass, whatever their configuration: one seed is one configuration."""

from __future__ import annotations

import pytest

from attacks.configurations import METHODS, configured
from attacks.players.zoo import HONEST

QUICK = 3 * len(METHODS)


@pytest.mark.parametrize("seed", range(QUICK))
def test_no_false_alarm(seed: int) -> None:
    name, found = configured(seed)
    assert not found.findings, f"{name}: {found.findings}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("not config.getoption('-m')", reason="minutes: ask for it with -m slow")
def test_no_false_alarm_in_200_configurations() -> None:
    found = {seed: configured(seed) for seed in range(QUICK, HONEST)}
    assert {seed: one for seed, one in found.items() if one[1].findings} == {}
