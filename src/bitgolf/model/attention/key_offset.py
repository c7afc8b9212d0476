"""Keys that look one position back."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


@register
class KeyOffset(QKPart):
    """k_t[dims:] <- k_{t-1}[dims:]: a query finds what followed a token, so that one layer can do induction.

    Partial key offset (modded-nanogpt; Parameter Golf #1512, on full-attention layers). It stands after `RoPE`, and
    `unshifted_dims` are those that it rotates (half a head where it rotates all). The first position keeps its own key, and with
    `mask_starts` so does the first of every document: else it would take the last key of the document before.
    """

    def __init__(self, context: BuildContext, /, *, unshifted_dims: int = 16, mask_starts: bool = True) -> None:
        super().__init__()
        width = context.dim // context.heads
        if not 0 <= unshifted_dims < width:
            raise RecipeError(
                f"{unshifted_dims} dimensions to keep leave none to shift of {width}", where="KeyOffset.unshifted_dims"
            )
        self.unshifted_dims, self.mask_starts = unshifted_dims, mask_starts

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        kept, own = k[..., : self.unshifted_dims], k[..., self.unshifted_dims :]
        stays = context.positions == 0
        if self.mask_starts:
            stays = stays | context.document_starts
        moved = torch.where(stays[..., None, None], own, context.token_shift(self, own))
        return q, torch.cat([kept, moved], -1)
