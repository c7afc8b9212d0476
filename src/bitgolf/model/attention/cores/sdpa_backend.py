"""Attention core on a chosen backend of PyTorch's scaled dot-product attention: FlashAttention or cuDNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bitgolf.errors import Unsupported
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore


def to_autocast_dtype(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cast to the autocast dtype if autocast is on, for kernels that PyTorch's autocast does not cover."""
    kind = a.device.type
    if not torch.is_autocast_enabled(kind):
        return a, b, c
    dtype = torch.get_autocast_dtype(kind)
    return a.to(dtype), b.to(dtype), c.to(dtype)


class SDPABackendCore(AttentionCore):
    """Fused counterpart of an `SDPACore` without masks, for whole sequences. Raises `Unsupported` if it has masks."""

    def __init__(self, plain: SDPACore, backend: SDPBackend) -> None:
        super().__init__()
        if len(plain.masks):
            raise Unsupported(f"the {backend.name} backend takes no masks")
        self.grouped, self.backend = plain.gqa, backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in to_autocast_dtype(q, k, v))
        with sdpa_kernel(self.backend):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        return y.transpose(1, 2)
