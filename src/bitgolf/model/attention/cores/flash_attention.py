"""Attention core on the FlashAttention packages: version 3 (arXiv 2407.08608) or version 4."""

from __future__ import annotations

from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.kernels.flash_attention import flash_attention, import_flash_attention
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.cores.sdpa_backend import to_autocast_dtype
from bitgolf.model.attention.cores.varlen import VarlenCore
from bitgolf.model.forward_context import ForwardContext


class FlashAttentionCore(VarlenCore):
    """`VarlenCore` on FlashAttention 3 or 4. Raises `Unsupported` if this version cannot be imported."""

    def __init__(self, plain: SDPACore, version: int) -> None:
        super().__init__(plain)
        try:
            import_flash_attention(version)
        except ImportError as error:
            raise Unsupported(f"FlashAttention {version} cannot be imported") from error
        self.version = version

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        if self.segment_lengths:
            return super().forward(q, k, v, context)
        return flash_attention(*to_autocast_dtype(q, k, v), None, q.shape[1], self.window_left, self.version)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        return flash_attention(q, k, v, ends, longest, self.window_left, self.version)
