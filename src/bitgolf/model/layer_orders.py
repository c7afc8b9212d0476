"""Orders in which layers are executed: each once, or some repeatedly (depth recurrence), without further parameters."""

from __future__ import annotations

from collections.abc import Sequence

from bitgolf.config.ranges import FractionBelowOne, LayerIndex, Repetitions
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
    """The layers `first_layer` … `last_layer` are executed repeatedly: Parameter Golf #1204, #1394, #1493.

    `since` has one entry for each additional pass: the fraction of the run at which it is switched on (0.0: from the
    start). #1493 to #1855 use `LoopedLayers(first_layer=3, last_layer=5, since=(0.35, 0.35))`, #1412 switches its
    passes on one by one: `LoopedLayers(first_layer=4, last_layer=5, since=(0.5, 0.65))`.

    evaluation_passes: number of additional passes in evaluation mode, that is in calibration and scoring; None means
    those of the end of training. From the harness of #1493, which calibrates with the passes of training.

    Raises `RecipeError` if `since` is empty or has an entry outside [0, 1), and if the layers do not exist.
    """

    def __init__(
        self,
        *,
        first_layer: LayerIndex,
        last_layer: LayerIndex,
        since: tuple[FractionBelowOne, ...] = (0.35, 0.35),
        evaluation_passes: Repetitions | None = None,
    ) -> None:
        if not since or not all(0.0 <= start < 1.0 for start in since):
            raise RecipeError(
                f"must have one fraction in [0, 1) for each additional pass, got {since}",
                where="LoopedLayers.since",
                hint="for example (0.35, 0.35)",
            )
        self.first_layer, self.last_layer, self.since = first_layer, last_layer, since
        self.evaluation_passes = len(since) if evaluation_passes is None else evaluation_passes

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if not 0 <= self.first_layer <= self.last_layer < layers:
            raise RecipeError(
                f"cannot loop layers {self.first_layer} to {self.last_layer} of {layers} layers (0 to {layers - 1})",
                where="LoopedLayers",
            )
        return [(m, self.visits(layers, sum(s <= m for s in self.since))) for m in sorted({0.0, *self.since})]

    def evaluation_order(self, layers: int) -> Sequence[int]:
        return self.visits(layers, self.evaluation_passes)

    def visits(self, layers: int, extra: int) -> list[int]:
        """Layer indices in the order of execution, with `extra` additional passes."""
        after = self.last_layer + 1
        return [*range(self.first_layer), *[*range(self.first_layer, after)] * (extra + 1), *range(after, layers)]


@register
class ExplicitLayerOrder(LayerOrder):
    """A given order of the layers. Raises `RecipeError` unless each layer occurs in it at least once, and no others."""

    def __init__(self, *, order: tuple[LayerIndex, ...]) -> None:
        self.order = order

    def phases(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        if wrong := sorted(set(self.order) ^ set(range(layers))):
            message = f"layer {wrong[0]} {'does not exist' if wrong[0] in self.order else 'is missing'} in {self.order}"
            raise RecipeError(
                message, where="ExplicitLayerOrder.order", hint=f"the model has {layers} layers, counted from 0"
            )
        return [(0.0, self.order)]
