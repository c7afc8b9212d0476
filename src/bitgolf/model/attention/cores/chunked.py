"""Causal attention over long rows without a (T, T) mask: queries in blocks, each with the keys that it may see.

Memory grows with T times the keys that a query sees, not with T squared: within a block the mask has at most
`MAX_MASK_ELEMENTS` elements, and the backward pass makes it again (activation checkpointing, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_DENSE_MASK_LENGTH = 8192
"""The longest row whose whole mask, (T, T), is made at once."""
MAX_MASK_ELEMENTS = 1 << 24
"""Elements of the largest mask of a block."""
MIN_CHUNK_LENGTH = 64

MaskMod = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(row, query, key) of any shapes that broadcast, each an index -> True where the key is seen (`AttentionMask.mask_mod`)."""


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, rules: Sequence[MaskMod], reach: int | None, *, grouped: bool
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the keys that causality and every rule allow.

    q (B, T, H, d), k and v (B, T, G, d) of whole rows -> (B, T, H, d).  reach: the most keys that a query sees, itself
    included; None where only causality limits them.  grouped: whether H and G differ.
    """
    length = q.shape[1]
    size = chunk_length(length, reach)
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = 0 if reach is None else max(0, start - reach + 1)
        pieces = q[:, start:stop], k[:, first:stop], v[:, first:stop]
        blocks.append(checkpoint(_attend_chunk, *pieces, start, first, rules, grouped, use_reentrant=False))
    return torch.cat(blocks, 1)


def chunk_length(length: int, reach: int | None) -> int:
    """Queries of a block: as many as keep its mask within `MAX_MASK_ELEMENTS`."""
    if reach is None or reach >= length:
        return max(MIN_CHUNK_LENGTH, MAX_MASK_ELEMENTS // length)
    size = MIN_CHUNK_LENGTH
    while 2 * size <= length and 2 * size * (2 * size + reach) <= MAX_MASK_ELEMENTS:
        size *= 2
    return size


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, start: int, first: int, rules: Sequence[MaskMod], grouped: bool
) -> Tensor:
    """One block: its queries stand at `start` of the row, its keys at `first`."""
    rows = torch.arange(len(q), device=q.device)[:, None, None]
    queries = torch.arange(start, start + q.shape[1], device=q.device)[:, None]
    keys = torch.arange(first, first + k.shape[1], device=q.device)
    seen = (queries >= keys)[None]
    for rule in rules:
        seen = seen & rule(rows, queries, keys)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen[:, None], enable_gqa=grouped
    )
    return y.transpose(1, 2)
