"""A replacement for FlashAttention 3's module of this name, for scripts that import it. It uses PyTorch's kernels.

The functions have the same arguments and results, on tensors (B, T, heads, width) or, packed, (T, heads, width), but
are slower.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# PyTorch 2.11 always groups heads and does not have this argument.
GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Attention over (B, T, heads, width); k and v can have fewer heads."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Attention within segments of packed (T, heads, width); cu_seqlens: starts of the segments, and the end."""
    window = (window_size[0], 0) if causal else window_size
    lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
    out = varlen_attn(q, k, v, *lengths, window_size=window, **GROUPED)
    assert isinstance(out, Tensor)  # a tuple is returned only if further results are requested
    return out
