"""Variable-length attention: concatenated rows, cut into segments that do not attend to each other.

Parameter Golf #1530.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.cores.sdpa_backend import to_autocast_dtype
from bitgolf.model.attention.cores.segment_capacity import (
    SEGMENT_COUNT_MULTIPLE,
    SEQLEN_MULTIPLE,
    SegmentCapacity,
    SegmentLimits,
    segment_starts,
)
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore
from bitgolf.runtime.compat import load_varlen_attention

CAPACITY_EXCEEDED = "a batch has more or longer segments than the capacity of attention; set train.kernels to 'plain'"


@torch.library.custom_op("bitgolf::segment_ends", mutates_args=())
def cu_seqlens(starts: Tensor, slots: int, longest: int) -> Tensor:
    """Cumulative segment lengths, int32 (slots + 1): 0, the end of each segment, then N as padding.

    starts: (N,), True where a segment starts. A device-side assertion fails if there are more than `slots` segments, or
    one of more than `longest` tokens. It is a custom operator because the graph partitioner that limits activation
    memory does not support device-side assertions.
    """
    ends = torch.nonzero_static(starts, size=slots + 1, fill_value=len(starts)).flatten().int()
    torch._assert_async((starts.sum() <= slots) & (ends.diff() <= longest).all(), CAPACITY_EXCEEDED)
    return ends


@cu_seqlens.register_fake
def _(starts: Tensor, slots: int, longest: int) -> Tensor:
    return starts.new_empty(slots + 1, dtype=torch.int32)


class VarlenCore(AttentionCore):
    """Fused counterpart of an `SDPACore` with window, document or segment masks, for whole sequences.

    `capacity` limits the number and the length of the segments of a batch. Its values are constants, so that a compiled
    graph has static shapes. `SegmentCapacityManager` keeps it large enough; a larger batch fails with a device-side
    assertion. Raises `Unsupported` for other masks.
    """

    def __init__(self, plain: SDPACore) -> None:
        super().__init__()
        self.varlen_attn = load_varlen_attention()
        self.window_left, self.segment_masks = -1, list[DocumentMask | SegmentMask]()  # -1: no window
        for mask in plain.masks:
            if isinstance(mask, SlidingWindowMask):
                self.window_left = mask.left if self.window_left < 0 else min(self.window_left, mask.left)
            elif isinstance(mask, DocumentMask | SegmentMask):
                self.segment_masks.append(mask)
            else:
                raise Unsupported(f"{type(mask).__name__} does not cut rows into segments")
        self.capacity = SegmentCapacity(SEGMENT_COUNT_MULTIPLE, SEQLEN_MULTIPLE)

    @property
    def segment_lengths(self) -> list[int]:
        """Maximum segment length of each mask in tokens, 0 for no limit. A mask may change it during training."""
        return [mask.max_length if isinstance(mask, SegmentMask) else 0 for mask in self.segment_masks]

    @property
    def segment_limits(self) -> list[SegmentLimits]:
        return [mask.limits if isinstance(mask, SegmentMask) else SegmentLimits(0, 0) for mask in self.segment_masks]

    def set_capacity(self, capacity: SegmentCapacity) -> None:
        """Set the sizes of the following forward passes. Graphs that contain this core are compiled again."""
        self.capacity = capacity

    def cu_seqlens(self, context: ForwardContext) -> Tensor:
        """Cumulative segment lengths, int32: 0, the end of each segment, then B * T as padding."""
        rows, length = context.ids.shape
        if not self.segment_masks:
            return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=context.ids.device)
        starts = (
            torch.stack([segment_starts(context.document_ids, cap) for cap in self.segment_lengths]).any(0).flatten()
        )
        return cu_seqlens(starts, *self.capacity)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        ends = context.cached(
            ("segment ends", tuple(self.segment_lengths), self.capacity), lambda: self.cu_seqlens(context)
        )
        longest = min([q.shape[1], *(cap for cap in self.segment_lengths if cap)])
        longest = min(longest, self.capacity.max_seqlen) if self.segment_masks else longest
        q, k, v = (x.flatten(0, 1) for x in to_autocast_dtype(q, k, v))
        return self.kernel(q, k, v, ends, longest).view(*context.ids.shape, *q.shape[1:])

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        """Call the kernel: q (B T, H, d), k and v (B T, G, d), cumulative segment lengths `ends` -> (B T, H, d)."""
        y = self.varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(self.window_left, 0))
        assert isinstance(y, Tensor)  # it would be a tuple if further outputs were requested
        return y
