"""The boundaries of segments computed eagerly, as published: what the operator of compiled graphs is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.model.attention.cores.segment_capacity import segment_starts


def cu_seqlens_reference(ids: Tensor, bos: int, cap: int, bucket: int) -> Tensor:
    """Cumulative lengths of the segments of rows laid end to end (`cu_seqlens`): 0, ends, B T; int32.

    ids (B, T). Padded with B T to a multiple of `bucket` entries, so that compiled kernels see few shapes.
    """
    starts = segment_starts((ids == bos).cumsum(1), cap).flatten().nonzero().flatten()
    padding = bucket - len(starts) % bucket  # at least one: the end of the last segment
    return torch.cat([starts, starts.new_full((padding,), ids.numel())]).int()
