"""Partial key offset: some dimensions of a key are taken from the previous position."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import WidthOrZero
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


@register
class KeyOffset(QKPart):
    """k_t[unshifted_dims:] <- k_{t-1}[unshifted_dims:]: a query can match a token and attend to the one after it.

    A single layer can thus form an induction head. From modded-nanogpt; Parameter Golf #1512, on full-attention layers.
    Place it after `RoPE` and set `unshifted_dims` to the number of rotated dimensions (half the head width if all are
    rotated). The first position keeps its own key. With `mask_starts` so does the first token of every document, which
    would otherwise take the last key of the previous document.
    """

    def __init__(self, context: BuildContext, /, *, unshifted_dims: WidthOrZero = 16, mask_starts: bool = True) -> None:
        super().__init__()
        width = context.dim // context.heads
        if not 0 <= unshifted_dims < width:
            raise RecipeError(
                f"must be at least 0 and below the head width {width}, got {unshifted_dims}",
                where="KeyOffset.unshifted_dims",
            )
        self.unshifted_dims, self.mask_starts = unshifted_dims, mask_starts

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        unshifted, current = k[..., : self.unshifted_dims], k[..., self.unshifted_dims :]
        keep = context.positions == 0
        if self.mask_starts:
            keep = keep | context.document_starts
        shifted = torch.where(keep[..., None, None], current, context.token_shift(self, current))
        return q, torch.cat([unshifted, shifted], -1)
