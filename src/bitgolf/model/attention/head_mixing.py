"""Head mixing: learned linear combinations of the projections of the heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import WeightTransform


@register
class HeadMix(WeightTransform):
    """W <- (M kron I) W: the rows of head i become the sum over j of M_ij times the rows of head j.

    M is (H, H) for q and (G, G) for k and v, and is initialized to the identity. From interleaved head attention; tried
    on the model of Parameter Golf #1493. Use `Only(layers="*", matrices="q,k", use=HeadMix())` in `Attention.linear`. Raises
    `RecipeError` for a matrix without heads.
    """

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        blocks = {"q": context.heads, "k": context.kv_heads, "v": context.kv_heads}.get(context.matrix_name, 0)
        if not blocks:
            raise RecipeError(
                f"HeadMix applies to the matrices q, k and v, not to {context.matrix_name or '?'!r}",
                where="HeadMix",
                hint="use Only(matrices='q,k', use=HeadMix())",
            )
        self.weight = nn.Parameter(torch.eye(blocks))

    def forward(self, w: Tensor) -> Tensor:
        blocks = w.unflatten(0, (len(self.weight), -1))
        return (self.weight.to(w.dtype) @ blocks.flatten(1)).view_as(w)
