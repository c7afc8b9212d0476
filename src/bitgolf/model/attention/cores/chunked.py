"""Causal attention over long rows without a (T, T) mask: queries are processed in chunks, each with its range of keys.

Memory grows with T times the number of keys per query instead of T squared. The backward pass computes the mask of a
chunk again (activation checkpointing, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_DENSE_MASK_LENGTH = 8192
"""Longest row for which a dense (T, T) mask is built."""
MAX_MASK_ELEMENTS = 1 << 24
"""Maximum number of elements in the mask of a chunk of more than `MIN_CHUNK_LENGTH` queries."""
MIN_CHUNK_LENGTH = 64

MaskMod = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Predicate over indices (row, query, key) of broadcastable shapes: True where the query attends to the key."""


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, rules: Sequence[MaskMod], reach: int | None, *, grouped: bool
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the keys that causality and all `rules` allow.

    q (B, T, H, d), k and v (B, T, G, d) of whole rows -> (B, T, H, d).  reach: maximum number of keys per query, itself
    included; None if only causality limits it.  grouped: whether H differs from G.
    """
    length = q.shape[1]
    size = chunk_length(length, reach)
    chunks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = 0 if reach is None else max(0, start - reach + 1)
        pieces = q[:, start:stop], k[:, first:stop], v[:, first:stop]
        chunks.append(checkpoint(_attend_chunk, *pieces, start, first, rules, grouped, use_reentrant=False))
    return torch.cat(chunks, 1)


def chunk_length(length: int, reach: int | None) -> int:
    """Queries per chunk: as many as `MAX_MASK_ELEMENTS` allows, but at least `MIN_CHUNK_LENGTH`."""
    if reach is None or reach >= length:
        return max(MIN_CHUNK_LENGTH, MAX_MASK_ELEMENTS // length)
    size = MIN_CHUNK_LENGTH
    while 2 * size <= length and 2 * size * (2 * size + reach) <= MAX_MASK_ELEMENTS:
        size *= 2
    return size


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, start: int, first: int, rules: Sequence[MaskMod], grouped: bool
) -> Tensor:
    """Attention of one chunk, whose queries start at position `start` of the row and whose keys start at `first`."""
    rows = torch.arange(len(q), device=q.device)[:, None, None]
    queries = torch.arange(start, start + q.shape[1], device=q.device)[:, None]
    keys = torch.arange(first, first + k.shape[1], device=q.device)
    mask = (queries >= keys)[None]
    for rule in rules:
        mask = mask & rule(rows, queries, keys)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask[:, None], enable_gqa=grouped
    )
    return y.transpose(1, 2)
