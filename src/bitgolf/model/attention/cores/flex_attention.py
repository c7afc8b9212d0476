"""Attention core on FlexAttention (arXiv 2412.05496), which skips blocks that are fully masked."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bitgolf.errors import Unsupported
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.cores.sdpa_backend import to_autocast_dtype
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore, AttentionMask


class FlexAttentionCore(AttentionCore):
    """Fused counterpart of an `SDPACore` with masks, for whole sequences in training. Fast only in a compiled graph.

    Raises `Unsupported` for a mask without `AttentionMask.mask_mod`.
    """

    def __init__(self, plain: SDPACore) -> None:
        super().__init__()
        self.masks, self.grouped = plain.masks, plain.gqa
        context = ForwardContext(torch.zeros(1, 1, dtype=torch.int64))  # any ids: they do not decide about `mask_mod`
        if without := [type(mask).__name__ for mask in self.parts if mask.mask_mod(context) is None]:
            raise Unsupported(f"{without[0]} has no mask_mod")

    @property
    def parts(self) -> list[AttentionMask]:
        return cast(list[AttentionMask], list(self.masks))

    def block_mask(self, context: ForwardContext) -> BlockMask:
        mask_mods = [mask_mod for mask in self.parts if (mask_mod := mask.mask_mod(context))]

        def combined(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            allowed = q >= k
            for mask_mod in mask_mods:
                allowed = allowed & mask_mod(b, q, k)
            return allowed

        rows, length = context.ids.shape
        return create_block_mask(combined, rows, None, length, length, device=context.ids.device)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        block = context.cached(("block mask", tuple(map(id, self.masks))), lambda: self.block_mask(context))
        q, k, v = (x.transpose(1, 2) for x in to_autocast_dtype(q, k, v))
        y = flex_attention(q, k, v, block_mask=block, enable_gqa=self.grouped)
        return y.transpose(1, 2)
