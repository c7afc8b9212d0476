"""Numbers of random examples of a property: about a third in `make test`, all in `make test-all`."""

from __future__ import annotations

from hypothesis import settings

ALL = 100


def register_profiles() -> None:
    """Register the profiles of Hypothesis, and load the one of `make test`. Before tests are imported."""
    settings.register_profile("exhaustive", max_examples=ALL)
    settings.register_profile("quick", max_examples=ALL * 3 // 10)
    settings.load_profile("quick")


def examples(count: int) -> int:
    """The number of examples of a test that tries `count` of them in `make test-all`; at least two."""
    return max(2, count * settings.default.max_examples // ALL)
