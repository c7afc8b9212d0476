"""Eager computation of segment boundaries, as published: the reference for the operator of compiled graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.model.attention.cores.segment_capacity import segment_starts


def cu_seqlens_reference(ids: Tensor, bos: int, cap: int, bucket: int) -> Tensor:
    """Cumulative lengths of the segments of concatenated rows (`cu_seqlens`), int32: 0, the ends of segments, B T.

    ids (B, T). Padded with B T to a multiple of `bucket` entries, so that compiled kernels see few shapes.
    """
    starts = segment_starts((ids == bos).cumsum(1), cap).flatten().nonzero().flatten()
    padding = bucket - len(starts) % bucket  # at least one: the end of the last segment
    return torch.cat([starts, starts.new_full((padding,), ids.numel())]).int()
