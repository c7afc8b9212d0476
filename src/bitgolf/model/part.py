"""Base classes of model parts, and the construction of the part chains of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress

if TYPE_CHECKING:
    from bitgolf.model.forward_context import ForwardContext
    from bitgolf.model.linear import Embedding

V = TypeVar("V")
MAX_LAYER_LIST = 2_000
"""Longest list of layers, in characters."""


class Part(nn.Module):
    """Base class of all model parts; a part implements one technique.

    `roles` maps the name of each parameter that the part owns to a role. The rules of a recipe select the optimizer and
    the codec of a parameter by its role.
    """

    roles: ClassVar[dict[str, str]] = {}
    identity_at_init: ClassVar[bool] = False  # a new part leaves the outputs of the model unchanged
    training_only: ClassVar[bool] = False  # the part is the identity in evaluation mode

    def __init__(self, context: BuildContext | None = None, /) -> None:
        super().__init__()

    def lookups(self, context: ForwardContext) -> tuple[tuple[Embedding, Tensor], ...]:
        """The tables that `forward` of this part reads, each with the rows that it looks up: int64 of any shape.

        A function of the tokens of `context` alone, so that calibration can count the uses of each row over all of the
        training text without a forward pass. Tables of inner parts are not included.
        """
        return ()


class Scheduled(Part):
    """A part whose computation changes during training.

    A new part is in its state at the end of training, since that is the state in which the model is scored.
    changes_loss: whether the loss of every batch must change at the start of a phase. If not, it may change.
    """

    changes_loss: ClassVar[bool] = True

    @property
    def phase_starts(self) -> tuple[float, ...]:
        """Fractions of the run at which the computation graph of the part changes.

        The trainer compiles the graph of each phase before training.
        """
        return ()

    def update(self, progress: TrainingProgress) -> None:
        """Set the state of the part for this progress. The trainer calls it before every training step."""
        raise NotImplementedError


@register
class Only:
    """Restricts a part of a chain to some layers or matrices.

    layers: `0-5`, `1,3,5`, `first 3`, `last 4`, or `*` for all.  matrices: names separated by commas, such as `q,k`;
    empty for all.  use: the part.
    """

    wraps = "use"

    def __init__(self, *, layers: str = "*", matrices: str = "", use: Spec[Any]) -> None:
        self.layers, self.matrices, self.use = layers, matrices, use

    def applies_to(self, context: BuildContext) -> bool:
        """Whether the part is built for this layer and matrix."""
        named = not self.matrices or context.matrix_name in [name.strip() for name in self.matrices.split(",")]
        return named and (self.layers == "*" or context.layer in parse_layers(self.layers, context.layers))


def only(layers: str, part: Spec[V], *, on: str = "") -> Spec[V]:
    """The recipe node `Only(layers=layers, matrices=on, use=part)`."""
    from bitgolf.config.spec import part as node

    return cast(Spec[V], node(Only, layers=layers, matrices=on, use=part))


def parse_layers(text: str, layers: int) -> set[int]:
    """Indices of the layers that `text` lists, in the syntax of `Only.layers`, for a model with `layers` layers.

    Raises `RecipeError` if the text cannot be parsed, is longer than `MAX_LAYER_LIST` characters, is empty, or lists a
    layer that the model does not have.
    """
    try:
        if len(text) > MAX_LAYER_LIST:
            raise ValueError
        ranges = [_layer_range(piece.strip(), layers) for piece in text.split(",")]
    except ValueError:
        hint = "write for example 0-5, 1,3,5, first 2 or last 4"
        raise RecipeError(f"cannot parse {text!r:.100} as a list of layers", hint=hint) from None
    if any(span and not 0 <= span[0] <= span[-1] < layers for span in ranges) or not any(ranges):
        hint = f"the model has {layers} layers, counted from 0"
        raise RecipeError(f"{text!r:.100} must list layers from 0 to {layers - 1}", hint=hint)
    return {layer for span in ranges for layer in span}


def _layer_range(piece: str, layers: int) -> range:
    """The layers of one piece of a list, which may not exist. Raises `ValueError` if it cannot be parsed."""
    word, _, count = piece.partition(" ")
    if word == "first":
        return range(int(count))
    if word == "last":
        return range(layers - int(count), layers)
    low, _, high = word.partition("-")
    return range(int(low), int(high or low) + 1)


def build_chain(specs: Sequence[Spec[Any]], context: BuildContext) -> nn.ModuleList:
    """Build the parts of a chain in order, without those that `Only` excludes from this layer or matrix."""
    chosen = []
    for spec in specs:
        if spec.cls is Only:
            choice = cast(Only, spec())
            if not choice.applies_to(context):
                continue
            spec = choice.use
        chosen.append(spec(context))
    return nn.ModuleList(chosen)
