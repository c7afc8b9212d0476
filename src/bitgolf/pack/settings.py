"""What a recipe says about packing."""

from __future__ import annotations

from bitgolf.errors import RecipeError
from bitgolf.pack.coders import Coder
from bitgolf.spec import Spec, register


@register
class Pack:
    """`cap`: the most bytes that may ship, decimal. `coder`: the lossless coder of every stream."""

    def __init__(self, *, coder: Spec[Coder], cap: int = 16_000_000) -> None:
        if cap < 1:
            raise RecipeError(f"a cap of {cap} bytes is not one", place="pack.cap")
        self.coder, self.cap = coder, cap
