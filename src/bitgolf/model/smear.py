"""Smearing: a position takes in a part of what came before it. Four techniques share the name "SmearGate".

`mask_starts`: where a document starts (BOS) nothing comes before, and the output is the input, exactly. The records up
to #1851 let the last token of one document into the next one's first: `mask_starts=False`. Before the first position
of a sequence there are zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.numerics import at_least_float32


class ChannelSmear(ResidualStreamPart):
    """x_t + share * (x_{t-1} - x_t), the share (D) of the token before from a learned theta (D)."""

    roles = {"theta": "scale"}

    def __init__(self, context: BuildContext, init: float, mask_starts: bool) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.full((context.dim,), init))

    @property
    def previous_weight(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        change = self.previous_weight.to(x.dtype) * (context.token_shift(self, x) - x)
        return x + zero_at_document_starts(change, context) if self.mask_starts else x + change


def zero_at_document_starts(change: Tensor, context: ForwardContext) -> Tensor:
    """`change` (B, T, D), zero where a document starts."""
    return change.masked_fill(context.document_starts[..., None], 0.0)


@register
class KeepSmear(ChannelSmear):
    """g * x_t + (1 - g) * x_{t-1} with g = sigmoid(theta), theta (D) started at `init` (3 keeps 0.953 of the token).

    Parameter Golf #65, there between the bigrams and the first norm.
    """

    def __init__(self, context: BuildContext, /, *, init: float = 3.0, mask_starts: bool = True) -> None:
        super().__init__(context, init, mask_starts)

    @property
    def previous_weight(self) -> Tensor:
        return (-self.theta).sigmoid()


@register
class BlendSmear(ChannelSmear):
    """(1 - g) * x_t + g * x_{t-1} with g = sigmoid(theta), theta (D) started at `init` (0 is half and half).

    Parameter Golf #162, #164, #287 ... #1512, there after the first norm.
    """

    def __init__(self, context: BuildContext, /, *, init: float = 0.0, mask_starts: bool = True) -> None:
        super().__init__(context, init, mask_starts)

    @property
    def previous_weight(self) -> Tensor:
        return self.theta.sigmoid()


@register
class ContentSmear(ResidualStreamPart):
    """x_t + scale * sigmoid(x_t[:width] gate^T) * x_{t-1}: the token itself says how much of the one before it takes.

    gate (1, width) and scale () start at zero. Parameter Golf #1667 (after modded-nanogpt), with the mask of #1851;
    there on the raw embedding, before the first norm.
    """

    roles = {"gate": "gate", "scale": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, width: int = 12, mask_starts: bool = True) -> None:
        super().__init__()
        if not 0 < width <= context.dim:
            raise RecipeError(f"cannot read {width} of {context.dim} dimensions", where="ContentSmear.width")
        self.width, self.mask_starts = width, mask_starts
        self.gate = nn.Parameter(torch.zeros(1, width))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        open_by = self.scale * F.linear(x[..., : self.width], self.gate.to(x.dtype)).sigmoid()
        change = open_by * context.token_shift(self, x)
        return x + zero_at_document_starts(change, context) if self.mask_starts else x + change


@register
class RunningMeanSmear(ResidualStreamPart):
    """x_t + tanh(theta) * (mean - x_t), the mean of the stream over positions up to t that are held; theta (D) started at 0.

    Parameter Golf #641, there at the end of every block. With `mask_starts` the mean is over the document alone.
    """

    roles = {"theta": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, mask_starts: bool = True) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.zeros(context.dim))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        own = at_least_float32(x)  # in bfloat16 a sum over a long text would not grow any more
        before = context.cumsum(self, own) - own
        start = self.mean_start(context)
        _, history = context.update_kv(self, own[..., :0], before)
        earlier = history.gather(1, start[..., None].expand_as(x))  # sums before the start, which do not count
        begun = start + context.key_positions[..., :1]
        mean = (own + (before - earlier)) / (context.positions + 1 - begun)[..., None]
        return (own + self.theta.tanh() * (mean - own)).to(x.dtype)

    def mean_start(self, context: ForwardContext) -> Tensor:
        """Of all that is held, the number of the position where each one's mean starts, (B, T)."""
        if not self.mask_starts:
            return torch.zeros_like(context.ids) + (context.first_key_position - context.key_positions[..., :1])
        return context.cached(
            "first", lambda: torch.searchsorted(context.key_document_ids, context.document_ids.contiguous())
        )
