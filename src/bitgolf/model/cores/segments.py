"""Segments: the stretches of packed text inside which attention stays. Variable-length kernels take their boundaries.

A segment starts at the start of a row, at each document, and every `cap` tokens within a document (Parameter Golf #1530).
The first one of a row may start in the middle of a document; its cap is counted from there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_starts(documents: Tensor, cap: int) -> Tensor:
    """True where a segment starts, (B, T), from the number of each token's document (B, T). A cap of 0 is none."""
    new = documents.diff(prepend=documents[:, :1] - 1) != 0
    if not cap:
        return new
    place = torch.arange(documents.shape[1], device=documents.device)
    begun = torch.where(new, place, 0).cummax(1).values  # where the document of each token starts
    return (place - begun) % cap == 0


def boundaries(ids: Tensor, bos: int, cap: int, bucket: int) -> Tensor:
    """Cumulative lengths of the segments of rows laid end to end (`cu_seqlens`): 0, ends, B T; int32.

    ids (B, T). Padded with B T to a multiple of `bucket` entries, so that compiled kernels see few shapes. The number of
    entries depends on the text: call it outside of a compiled graph.
    """
    starts = segment_starts((ids == bos).cumsum(1), cap).flatten().nonzero().flatten()
    padding = bucket - len(starts) % bucket  # at least one: the end of the last segment
    return torch.cat([starts, starts.new_full((padding,), ids.numel())]).int()
