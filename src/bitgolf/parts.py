"""The classes that a recipe may name: `bitgolf.parts.MLP`, or `from bitgolf.parts import MLP`.

A class is imported when it is first used. `dir(bitgolf.parts)` lists all, `part(SwiGLU, hidden=512)` makes a node of
a recipe. Type checkers read them from `parts.pyi`, which `make lint` writes.
"""

from __future__ import annotations

import sys
from typing import Any

from bitgolf.config.registry import REGISTRY, lookup, part_modules
from bitgolf.errors import RecipeError


def __getattr__(name: str) -> Any:
    try:
        return lookup(name)
    except RecipeError as error:
        raise AttributeError(str(error), name=name, obj=sys.modules[__name__]) from None


def __dir__() -> list[str]:
    return sorted({*part_modules(), *REGISTRY})
