"""The list of cautions, which each of them joins where it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bitgolf.config.spec import Spec
from bitgolf.recipes.recipe import Recipe

Caution = Callable[[Spec[Recipe]], Iterator[str]]
CAUTIONS: list[Caution] = []


def caution(check: Caution) -> Caution:
    CAUTIONS.append(check)
    return check
