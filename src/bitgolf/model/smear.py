"""Smearing: a part of the previous positions is added to each position. Four techniques share the name "SmearGate".

With `mask_starts`, the output at a document start (BOS) equals the input exactly. `mask_starts=False` mixes the last
token of a document into the first token of the next one, as in the records before #1851. The position before the first
one of a sequence counts as zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, Width
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.numerics import at_least_float32


class ChannelSmear(ResidualStreamPart):
    """x_t + w * (x_{t-1} - x_t) with w (D,), the weight of the previous token, computed from a learned theta (D,)."""

    roles = {"theta": "scale"}

    def __init__(self, context: BuildContext, init: float, mask_starts: bool) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.full((context.dim,), init))

    @property
    def previous_weight(self) -> Tensor:
        """Weight of the previous token in each channel, (D,)."""
        raise NotImplementedError

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        change = self.previous_weight.to(x.dtype) * (context.token_shift(self, x) - x)
        return x + zero_at_document_starts(change, context) if self.mask_starts else x + change


def zero_at_document_starts(change: Tensor, context: ForwardContext) -> Tensor:
    """`change` (B, T, D), set to zero where a document starts."""
    return change.masked_fill(context.document_starts[..., None], 0.0)


@register
class KeepSmear(ChannelSmear):
    """g * x_t + (1 - g) * x_{t-1} with g = sigmoid(theta); theta (D,) is initialized to `init` (3 gives g = 0.953).

    Parameter Golf #65, where it is placed between the bigram embedding and the first norm.
    """

    def __init__(self, context: BuildContext, /, *, init: Finite = 3.0, mask_starts: bool = True) -> None:
        super().__init__(context, init, mask_starts)

    @property
    def previous_weight(self) -> Tensor:
        return (-self.theta).sigmoid()


@register
class BlendSmear(ChannelSmear):
    """(1 - g) * x_t + g * x_{t-1} with g = sigmoid(theta); theta (D,) is initialized to `init` (0 gives g = 0.5).

    Parameter Golf #162, #164, #287 ... #1512, where it is placed after the first norm.
    """

    def __init__(self, context: BuildContext, /, *, init: Finite = 0.0, mask_starts: bool = True) -> None:
        super().__init__(context, init, mask_starts)

    @property
    def previous_weight(self) -> Tensor:
        return self.theta.sigmoid()


@register
class ContentSmear(ResidualStreamPart):
    """x_t + scale * sigmoid(x_t[:width] gate^T) * x_{t-1}: the weight of the previous token depends on the current one.

    gate (1, width) and scale () are initialized to zero. Parameter Golf #1667 (after modded-nanogpt), where it is
    applied to the embedding before the first norm; `mask_starts` is from #1851. Raises `RecipeError` if `width` is
    below 1 or above D.
    """

    roles = {"gate": "gate", "scale": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, width: Width = 12, mask_starts: bool = True) -> None:
        super().__init__()
        if not 0 < width <= context.dim:
            raise RecipeError(f"must be between 1 and {context.dim}, got {width}", where="ContentSmear.width")
        self.width, self.mask_starts = width, mask_starts
        self.gate = nn.Parameter(torch.zeros(1, width))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        weight = self.scale * F.linear(x[..., : self.width], self.gate.to(x.dtype)).sigmoid()
        change = weight * context.token_shift(self, x)
        return x + zero_at_document_starts(change, context) if self.mask_starts else x + change


@register
class RunningMeanSmear(ResidualStreamPart):
    """x_t + tanh(theta) * (mean - x_t); mean is that of the stream up to position t, theta (D,) is initialized to 0.

    Parameter Golf #641, where it is placed at the end of every block. The mean is taken over the valid positions of the
    context, with `mask_starts` over those of the current document only.
    """

    roles = {"theta": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, mask_starts: bool = True) -> None:
        super().__init__()
        self.mask_starts = mask_starts
        self.theta = nn.Parameter(torch.zeros(context.dim))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        stream = at_least_float32(x)  # in bfloat16, a sum over a long text would stop growing
        before = context.cumsum(self, stream) - stream
        start = self.mean_start(context)
        _, history = context.update_kv(self, stream[..., :0], before)
        excluded = history.gather(1, start[..., None].expand_as(x))  # sums over the positions before the mean starts
        start_position = start + context.key_positions[..., :1]
        mean = (stream + (before - excluded)) / (context.positions + 1 - start_position)[..., None]
        return (stream + self.theta.tanh() * (mean - stream)).to(x.dtype)

    def mean_start(self, context: ForwardContext) -> Tensor:
        """Index of the key at which the mean of each position starts, (B, T)."""
        if not self.mask_starts:
            return torch.zeros_like(context.ids) + (context.first_key_position - context.key_positions[..., :1])
        return context.cached(
            "first", lambda: torch.searchsorted(context.key_document_ids, context.document_ids.contiguous())
        )
