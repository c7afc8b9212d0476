"""Numbers of random examples of a property: about a third in `make test`, all in `make test-all`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

ALL = 100


def register_profiles() -> None:
    """Register the profiles of Hypothesis, and load the one of `make test`. Before tests are imported.

    No example has a time limit: on a busy machine, it would fail tests of slow but correct code.
    """
    timeless = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("exhaustive", timeless, max_examples=ALL)
    settings.register_profile("quick", timeless, max_examples=ALL * 3 // 10)
    settings.load_profile("quick")


def examples(count: int) -> int:
    """The number of examples of a test that tries `count` of them in `make test-all`; at least two."""
    return max(2, count * settings().max_examples // ALL)
