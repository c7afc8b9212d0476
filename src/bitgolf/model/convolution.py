"""Causal convolutions over positions."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Range
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms_norm, scalar_to_channels

WIDEST = 8
"""Largest kernel, in positions: incremental decoding keeps the ids of eight earlier tokens."""


@register
class CausalConvolution(ResidualStreamPart):
    """x_t + tanh(g) rms(W [x_{t-K+1}, ..., x_t]) with a kernel of K positions and a learned scalar g, initialized to 0.

    W is (D, K D): column K i + j acts on channel i of position t - K + 1 + j, the order of a flattened `Conv1d` weight
    (D, D, K). Positions before the first one are zero, and with mask_starts those of earlier documents.
    Parameter Golf #640 places this "refiner" after the final norm (`LM.post_norm`); there, no optimizer has W, which
    keeps its random values. Raises `RecipeError` if `kernel` is below 2 or above 8.
    """

    roles = {"scale": "scale"}
    identity_at_init = True

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        kernel: Annotated[int, Range(2, WIDEST)] = 3,
        linear: Spec[Linear] = part(Linear),
        mask_starts: bool = True,
    ) -> None:
        super().__init__()
        if not 2 <= kernel <= WIDEST:
            raise RecipeError(f"must be from 2 to {WIDEST} positions, got {kernel}", where="CausalConvolution.kernel")
        self.kernel, self.mask_starts = kernel, mask_starts
        self.project = linear(context.for_matrix(kernel * context.dim, context.dim, name="convolution"))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        taps = [x]
        excluded = torch.zeros_like(context.document_starts)
        for steps in range(1, self.kernel):
            excluded = excluded | self.starts_at(context, steps - 1)
            taps.append(context.token_shift(self, x, steps).masked_fill(excluded[..., None], 0.0))
        y = self.project(torch.stack(taps[::-1], -1).flatten(-2))
        return x + scalar_to_channels(self.scale.tanh(), x) * rms_norm(y).to(x.dtype)

    def starts_at(self, context: ForwardContext, steps: int) -> Tensor:
        """Whether the token `steps` positions earlier starts a document that hides those before it, (B, T)."""
        return (context.previous_ids(steps) == context.bos) & self.mask_starts
