"""The list of all caution checks, filled by the decorator `caution`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bitgolf.config.spec import Spec
from bitgolf.recipes.recipe import Recipe

Caution = Callable[[Spec[Recipe]], Iterator[str]]
"""A check: takes a recipe and yields one warning per problem."""
CAUTIONS: list[Caution] = []


def caution(check: Caution) -> Caution:
    """Decorator that registers a check in `CAUTIONS`."""
    CAUTIONS.append(check)
    return check
