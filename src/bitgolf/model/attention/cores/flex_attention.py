"""FlexAttention (arXiv 2412.05496): the masks as rules of indices, of which only the blocks that see anything are computed."""

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
    """The fast twin of an `SDPACore` with masks, for whole sequences in training. Needs a compiled graph to be fast.

    Raises `Unsupported` for a mask without a rule of indices.
    """

    def __init__(self, plain: SDPACore) -> None:
        super().__init__()
        self.masks, self.grouped = plain.masks, plain.gqa
        any_text = ForwardContext(
            torch.zeros(1, 1, dtype=torch.int64)
        )  # whether a mask has a rule does not depend on the ids
        if without := [type(mask).__name__ for mask in self.parts if mask.mask_mod(any_text) is None]:
            raise Unsupported(f"{without[0]} has no rule of indices")

    @property
    def parts(self) -> list[AttentionMask]:
        return cast(list[AttentionMask], list(self.masks))

    def block_mask(self, context: ForwardContext) -> BlockMask:
        rules = [rule for mask in self.parts if (rule := mask.mask_mod(context))]

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            seen = q >= k
            for rule in rules:
                seen = seen & rule(b, q, k)
            return seen

        rows, length = context.ids.shape
        return create_block_mask(sees, rows, None, length, length, device=context.ids.device)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        block = context.cached(("block mask", tuple(map(id, self.masks))), lambda: self.block_mask(context))
        q, k, v = (x.transpose(1, 2) for x in to_autocast_dtype(q, k, v))
        y = flex_attention(q, k, v, block_mask=block, enable_gqa=self.grouped)
        return y.transpose(1, 2)
