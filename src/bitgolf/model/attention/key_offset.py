"""Keys that look one position back."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import QKPart


@register
class KeyOffset(QKPart):
    """k_t[dims:] <- k_{t-1}[dims:]: a query finds what followed a token, so that one layer can do induction.

    Partial key offset (modded-nanogpt; Parameter Golf #1512, on full-attention layers). It stands after `Rope`, and
    `dims` are those that it rotates (half a head where it rotates all). The first position keeps its own key, and with
    `mask_starts` so does the first of every document: else it would take the last key of the document before.
    """

    def __init__(self, at: Place, /, *, dims: int = 16, mask_starts: bool = True) -> None:
        super().__init__()
        width = at.dim // at.heads
        if not 0 <= dims < width:
            raise RecipeError(f"{dims} dimensions to keep leave none to shift of {width}", place="KeyOffset.dims")
        self.dims, self.mask_starts = dims, mask_starts

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        kept, own = k[..., : self.dims], k[..., self.dims :]
        stays = bus.positions == 0
        if self.mask_starts:
            stays = stays | bus.starts
        moved = torch.where(stays[..., None, None], own, bus.previous(self, own))
        return q, torch.cat([kept, moved], -1)
