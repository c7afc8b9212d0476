"""The base classes of a model's parts, and how the chains of parts in a recipe are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar, cast

from torch import nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress

V = TypeVar("V")


class Part(nn.Module):
    """One technique. `roles` gives each of its own parameters a role, by which rules choose optimizer and codec."""

    roles: ClassVar[dict[str, str]] = {}
    identity_at_init: ClassVar[bool] = False  # a claim that the contract suite checks
    training_only: ClassVar[bool] = False  # the identity when a model is scored

    def __init__(self, context: BuildContext | None = None, /) -> None:
        super().__init__()


class Scheduled(Part):
    """A part that changes while training goes on. As built it is as at the end: that is what is scored."""

    @property
    def phase_starts(self) -> tuple[float, ...]:
        """The fractions of the run at which its graph becomes another. Each is compiled ahead and probed when it comes."""
        return ()

    def update(self, progress: TrainingProgress) -> None:
        """Told the time before each training step."""
        raise NotImplementedError


@register
class Only:
    """A part in some places alone: `layers` as in `0-5`, `last 4`, `first 3`, `1,3,5` or `*`; `matrices` names matrices, `q,k`."""

    wraps = "use"

    def __init__(self, *, layers: str = "*", matrices: str = "", use: Spec[Any]) -> None:
        self.layers, self.matrices, self.use = layers, matrices, use

    def applies_to(self, context: BuildContext) -> bool:
        named = not self.matrices or context.matrix_name in [name.strip() for name in self.matrices.split(",")]
        return named and (self.layers == "*" or context.layer in parse_layers(self.layers, context.layers))


def only(layers: str, part: Spec[V], *, on: str = "") -> Spec[V]:
    from bitgolf.config.spec import part as node

    return cast(Spec[V], node(Only, layers=layers, matrices=on, use=part))


def parse_layers(text: str, layers: int) -> set[int]:
    """The layers that a text names, of 0 … layers-1."""
    chosen: set[int] = set()
    for piece in text.split(","):
        word, _, count = piece.strip().partition(" ")
        try:
            if word in ("first", "last"):
                chosen |= set(range(int(count)) if word == "first" else range(layers - int(count), layers))
            else:
                low, _, high = word.partition("-")
                chosen |= set(range(int(low), int(high or low) + 1))
        except ValueError:
            raise RecipeError(f"{text!r} names no layers", hint="write 0-5, 1,3,5, first 2 or last 4") from None
    if not chosen or min(chosen) < 0 or max(chosen) >= layers:
        raise RecipeError(f"{text!r} does not fit {layers} layers")
    return chosen


def build_chain(specs: Sequence[Spec[Any]], context: BuildContext) -> nn.ModuleList:
    """Build the parts of a chain that belong on this layer."""
    chosen = []
    for spec in specs:
        if spec.cls is Only:
            choice = cast(Only, spec())
            if not choice.applies_to(context):
                continue
            spec = choice.use
        chosen.append(spec(context))
    return nn.ModuleList(chosen)
