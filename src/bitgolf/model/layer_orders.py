"""Orders in which layers are visited: each once, or some more often, which is depth without parameters."""

from __future__ import annotations

from collections.abc import Sequence

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import LayerOrder


@register
class EachLayerOnce(LayerOrder):
    """Every layer once, in order."""

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        return [(0.0, range(layers))]


@register
class LoopedLayers(LayerOrder):
    """The layers first … last again and again, before the rest: Parameter Golf #1204, #1394, #1493.

    `since` has one entry for each extra pass, the fraction of the run from which it is made; equal ones come on
    together, 0.0 is from the start. `LoopedLayers(first_layer=3, last_layer=5, since=(0.35, 0.35))` is that of #1493 to #1855,
    `LoopedLayers(first_layer=4, last_layer=5, since=(0.5, 0.65))` the progressive one of #1412.
    """

    def __init__(self, *, first_layer: int, last_layer: int, since: tuple[float, ...] = (0.35, 0.35)) -> None:
        if not since or not all(0.0 <= moment < 1.0 for moment in since):
            raise RecipeError(
                f"{since} does not say when extra passes come on",
                where="LoopedLayers.since",
                hint="fractions in [0, 1)",
            )
        self.first_layer, self.last_layer, self.since = first_layer, last_layer, since

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if not 0 <= self.first_layer <= self.last_layer < layers:
            raise RecipeError(
                f"{layers} layers have no segment {self.first_layer} to {self.last_layer}", where="LoopedLayers"
            )
        return [(m, self.visits(layers, sum(s <= m for s in self.since))) for m in sorted({0.0, *self.since})]

    def visits(self, layers: int, extra: int) -> list[int]:
        """The layers in the order of their visits, with so many extra passes."""
        after = self.last_layer + 1
        return [*range(self.first_layer), *[*range(self.first_layer, after)] * (extra + 1), *range(after, layers)]


@register
class ExplicitLayerOrder(LayerOrder):
    """The layers in any order that is written out, each at least once."""

    def __init__(self, *, order: tuple[int, ...]) -> None:
        self.order = order

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if odd := sorted(set(self.order) ^ set(range(layers))):
            cause = f"layer {odd[0]} is {'visited, and there is none' if odd[0] in self.order else 'never visited'}"
            raise RecipeError(
                cause, where="ExplicitLayerOrder.order", hint=f"there are {layers} layers, counted from 0"
            )
        return [(0.0, self.order)]
