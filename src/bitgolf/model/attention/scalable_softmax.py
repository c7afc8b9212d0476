"""Attention that stays sharp over long contexts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


@register
class ScalableSoftmax(QKPart):
    """q_h <- s_h log(n) q_h where n keys are seen, one learned s a head (H), started at `init` (arXiv 2501.19399).

    A softmax over more keys is flatter at the same logits; log(n) makes up for it. n counts from the first key that is held.
    """

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, init: float = 0.43) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((context.heads,), init))

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        keys = (context.positions - context.first_key_position + 1).float().log()[..., None, None]
        return q * (self.weight[:, None] * keys).to(q.dtype), k
