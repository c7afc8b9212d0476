"""Exclusive self-attention: attention's output without what the token already knows of itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.model.interfaces import AttentionOutputPart
from bitgolf.model.numerics import at_least_float32


@register
class ExclusiveSelfAttention(AttentionOutputPart):
    """y_h <- y_h - (y_h . u) u, with u = v / max(|v|, eps) of the same position and of the k/v head that h reads.

    Exclusive self-attention (arXiv 2603.09078; Parameter Golf #265, and #1019 on all layers). The first position of a
    document sees only itself, so nothing is left there. v is the final one, after every value part. Query heads are
    viewed in their groups, so that no value is repeated. `eps` 1e-4 is #1090's form, (y . v) v / max(v . v, 1e-8).
    """

    def __init__(self, context: BuildContext, /, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        # in float32, since rounding to bfloat16 would leave a part of v
        unit = F.normalize(at_least_float32(v), dim=-1, eps=self.eps)[..., None, :]
        grouped = at_least_float32(y).unflatten(2, (v.shape[2], -1))
        return (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).flatten(2, 3).to(y.dtype)
