"""Orders in which layers are visited: each once, or some more often, which is depth without parameters."""

from __future__ import annotations

from collections.abc import Sequence

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import Order


@register
class Once(Order):
    """Every layer once, in order."""

    def plans(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        return [(0.0, range(layers))]


@register
class Loop(Order):
    """The layers first … last again and again, before the rest: Parameter Golf #1204, #1394, #1493.

    `since` has one entry for each extra pass, the fraction of the run from which it is made; equal ones come on
    together, 0.0 is from the start. `Loop(first=3, last=5, since=(0.35, 0.35))` is that of #1493 to #1855,
    `Loop(first=4, last=5, since=(0.5, 0.65))` the progressive one of #1412.
    """

    def __init__(self, *, first: int, last: int, since: tuple[float, ...] = (0.35, 0.35)) -> None:
        if not since or not all(0.0 <= moment < 1.0 for moment in since):
            raise RecipeError(
                f"{since} does not say when extra passes come on", place="Loop.since", mend="fractions in [0, 1)"
            )
        self.first, self.last, self.since = first, last, since

    def plans(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if not 0 <= self.first <= self.last < layers:
            raise RecipeError(f"{layers} layers have no segment {self.first} to {self.last}", place="Loop")
        return [(m, self.visits(layers, sum(s <= m for s in self.since))) for m in sorted({0.0, *self.since})]

    def visits(self, layers: int, extra: int) -> list[int]:
        """The layers in the order of their visits, with so many extra passes."""
        after = self.last + 1
        return [*range(self.first), *[*range(self.first, after)] * (extra + 1), *range(after, layers)]


@register
class Visits(Order):
    """The layers in any order that is written out, each at least once."""

    def __init__(self, *, order: tuple[int, ...]) -> None:
        self.order = order

    def plans(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if odd := sorted(set(self.order) ^ set(range(layers))):
            cause = f"layer {odd[0]} is {'visited, and there is none' if odd[0] in self.order else 'never visited'}"
            raise RecipeError(cause, place="Visits.order", mend=f"there are {layers} layers, counted from 0")
        return [(0.0, self.order)]
