"""Scalable softmax: attention that does not flatten as the number of keys grows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite
from bitgolf.config.registry import register
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


@register
class ScalableSoftmax(QKPart):
    """q_h <- s_h log(n) q_h, where n is the number of keys up to the query (arXiv 2501.19399).

    s (H,) is learned, one per head, and initialized to `init`. With equal logits, a softmax over more keys is flatter;
    log(n) compensates for it. n is counted from the first valid key of the context and ignores attention masks.
    """

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, init: Finite = 0.43) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((context.heads,), init))

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        keys = (context.positions - context.first_key_position + 1).float().log()[..., None, None]
        return q * (self.weight[:, None] * keys).to(q.dtype), k
