"""Heads that share their projections: a mix of a matrix's blocks of rows, one block a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import WeightTransform


@register
class HeadMix(WeightTransform):
    """W <- (M kron I) W: block i of W's rows becomes the sum of M_ij block_j. M (H, H), or (G, G) for k and v, starts at I.

    Interleaved head attention's mix of projections, tried on Parameter Golf #1493's model. Use it as
    `only("*", part(HeadMix), on="q,k")` in `Attention.linear`.
    """

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        blocks = {"q": context.heads, "k": context.kv_heads, "v": context.kv_heads}.get(context.matrix_name, 0)
        if not blocks:
            raise RecipeError(
                f"the matrix {context.matrix_name or '?'!r} has no heads to mix", where="HeadMix", hint="say on='q,k'"
            )
        self.weight = nn.Parameter(torch.eye(blocks))

    def forward(self, w: Tensor) -> Tensor:
        blocks = w.unflatten(0, (len(self.weight), -1))
        return (self.weight.to(w.dtype) @ blocks.flatten(1)).view_as(w)
