"""Positions stretched for windows longer than those of training, for as long as a player lives."""

from __future__ import annotations

from collections.abc import Callable

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope import Rope, Scaling
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import World
from bitgolf.score.execution.forward import SelectKernels
from bitgolf.score.player import StaticPlayer


class StretchedPlayer(StaticPlayer):
    """A model that reads longer windows than it was trained on, until it is closed."""

    def __init__(
        self,
        model: LM,
        vocab: int,
        device: Device,
        scaling: Spec[Scaling],
        *,
        longest: int,
        world: World,
        kernels: SelectKernels | None = None,
    ) -> None:
        super().__init__(model, vocab, device, longest=longest, world=world, kernels=kernels)
        self.undo = stretch(model, scaling)

    def close(self) -> None:
        super().close()
        self.undo()


def stretch(model: LM, scaling: Spec[Scaling]) -> Callable[[], None]:
    """Give every `Rope` of the model these frequencies in place of its own; returns what gives the old ones back.

    All else stays: attention that sees the last w keys sees no more. A scaling that does not stretch changes nothing.
    """
    ropes = [part for part in model.modules() if isinstance(part, Rope)]
    if not ropes:
        raise RecipeError("the model has no rotary positions to stretch", place="score", mend="stretch=none")
    old, new = [(rope.scaling, rope.key) for rope in ropes], scaling()
    if new.stretch > 1:
        for rope in ropes:
            rope.scaling, rope.key = new, (*rope.key[:3], repr(scaling))

    def undo() -> None:
        for rope, (own, key) in zip(ropes, old, strict=True):
            rope.scaling, rope.key = own, key

    return undo


def check_stretch(scaling: Spec[Scaling] | None, window: int) -> None:
    """The frequencies of a window are those of its length, whatever the text's."""
    if scaling and scaling["length"] != window:
        cause = f"positions are stretched to {scaling['length']} tokens for windows of {window}"
        raise RecipeError(cause, place="score", mend=f"length={window}, reference=the length of training")
