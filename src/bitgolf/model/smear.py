"""Smearing: a position takes in a part of what came before it. Four techniques share the name "SmearGate".

`mask_starts`: where a document starts (BOS) nothing comes before, and the output is the input, exactly. The records up
to #1851 let the last token of one document into the next one's first: `mask_starts=False`. Before the first position
of a sequence there are zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import StreamPart
from bitgolf.model.numerics import at_least_float32


class VectorSmear(StreamPart):
    """x_t + share * (x_{t-1} - x_t), the share (D) of the token before from a learned theta (D)."""

    roles = {"theta": "scale"}

    def __init__(self, at: Place, init: float, mask_starts: bool) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.full((at.dim,), init))

    @property
    def share(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        change = self.share.to(x.dtype) * (bus.previous(self, x) - x)
        return x + without_starts(change, bus) if self.mask_starts else x + change


def without_starts(change: Tensor, bus: Bus) -> Tensor:
    """`change` (B, T, D), zero where a document starts."""
    return change.masked_fill(bus.starts[..., None], 0.0)


@register
class KeepSmear(VectorSmear):
    """g * x_t + (1 - g) * x_{t-1} with g = sigmoid(theta), theta (D) started at `init` (3 keeps 0.953 of the token).

    Parameter Golf #65, there between the bigrams and the first norm.
    """

    def __init__(self, at: Place, /, *, init: float = 3.0, mask_starts: bool = True) -> None:
        super().__init__(at, init, mask_starts)

    @property
    def share(self) -> Tensor:
        return (-self.theta).sigmoid()


@register
class BlendSmear(VectorSmear):
    """(1 - g) * x_t + g * x_{t-1} with g = sigmoid(theta), theta (D) started at `init` (0 is half and half).

    Parameter Golf #162, #164, #287 ... #1512, there after the first norm.
    """

    def __init__(self, at: Place, /, *, init: float = 0.0, mask_starts: bool = True) -> None:
        super().__init__(at, init, mask_starts)

    @property
    def share(self) -> Tensor:
        return self.theta.sigmoid()


@register
class ContentSmear(StreamPart):
    """x_t + scale * sigmoid(x_t[:width] gate^T) * x_{t-1}: the token itself says how much of the one before it takes.

    gate (1, width) and scale () start at zero. Parameter Golf #1667 (after modded-nanogpt), with the mask of #1851;
    there on the raw embedding, before the first norm.
    """

    roles = {"gate": "gate", "scale": "scale"}
    identity_at_init = True

    def __init__(self, at: Place, /, *, width: int = 12, mask_starts: bool = True) -> None:
        super().__init__()
        if not 0 < width <= at.dim:
            raise RecipeError(f"cannot read {width} of {at.dim} dimensions", place="ContentSmear.width")
        self.width, self.mask_starts = width, mask_starts
        self.gate = nn.Parameter(torch.zeros(1, width))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        open_by = self.scale * F.linear(x[..., : self.width], self.gate.to(x.dtype)).sigmoid()
        change = open_by * bus.previous(self, x)
        return x + without_starts(change, bus) if self.mask_starts else x + change


@register
class MeanSmear(StreamPart):
    """x_t + tanh(theta) * (mean - x_t), the mean of the stream over positions up to t that are held; theta (D) started at 0.

    Parameter Golf #641, there at the end of every block. With `mask_starts` the mean is over the document alone.
    """

    roles = {"theta": "scale"}
    identity_at_init = True

    def __init__(self, at: Place, /, *, mask_starts: bool = True) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.zeros(at.dim))

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        own = at_least_float32(x)  # in bfloat16 a sum over a long text would not grow any more
        before = bus.running_sum(self, own) - own
        start = self.start(bus)
        _, history = bus.recall(self, own[..., :0], before)
        earlier = history.gather(1, start[..., None].expand_as(x))  # sums before the start, which do not count
        begun = start + bus.key_positions[..., :1]
        mean = (own + (before - earlier)) / (bus.positions + 1 - begun)[..., None]
        return (own + self.theta.tanh() * (mean - own)).to(x.dtype)

    def start(self, bus: Bus) -> Tensor:
        """Of all that is held, the number of the position where each one's mean starts, (B, T)."""
        if not self.mask_starts:
            return torch.zeros_like(bus.ids) + (bus.oldest - bus.key_positions[..., :1])
        return bus.memo("first", lambda: torch.searchsorted(bus.key_documents, bus.documents.contiguous()))
