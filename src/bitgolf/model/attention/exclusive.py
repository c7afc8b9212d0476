"""Exclusive self-attention: the attention output without its component along the value of the same position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Epsilon
from bitgolf.config.registry import register
from bitgolf.model.interfaces import AttentionOutputPart
from bitgolf.model.numerics import at_least_float32


@register
class ExclusiveSelfAttention(AttentionOutputPart):
    """y_h <- y_h - (y_h . u) u with u = v / max(|v|, eps), v being the value at the same position.

    Exclusive self-attention (arXiv 2603.09078; Parameter Golf #265, and #1019 on all layers). v is that of the
    key/value head of h, after all value parts. The first position of a document attends only to itself, so its output
    becomes zero. Query heads are grouped by key/value head, so that values need not be repeated. eps=1e-4 gives the
    form of #1090: y - (y . v) v / max(v . v, 1e-8).
    """

    def __init__(self, context: BuildContext, /, *, eps: Epsilon = 1e-12) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        # float32: rounding to bfloat16 would leave a component along v
        unit = F.normalize(at_least_float32(v), dim=-1, eps=self.eps)[..., None, :]
        grouped = at_least_float32(y).unflatten(2, (v.shape[2], -1))
        return (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).flatten(2, 3).to(y.dtype)
