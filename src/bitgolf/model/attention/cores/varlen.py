"""Variable-length attention: rows laid end to end, cut into segments that never see each other (Parameter Golf #1530)."""

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
    segment_starts,
)
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore
from bitgolf.runtime.compat import load_varlen_attention

CAPACITY_EXCEEDED = "a batch has more or longer segments than its attention has room for; set train.kernels to 'plain'"


@torch.library.custom_op("bitgolf::segment_ends", mutates_args=())
def cu_seqlens(starts: Tensor, slots: int, longest: int) -> Tensor:
    """Cumulative lengths of segments, int32 (slots + 1): 0, ends, and the number of tokens N as often as fills the slots.

    starts: (N,), True where a segment starts. Fails on the device where there are more than `slots`, or longer ones than
    `longest`. An operator, because the partitioner that limits a graph's activations takes no assertion of the device.
    """
    ends = torch.nonzero_static(starts, size=slots + 1, fill_value=len(starts)).flatten().int()
    torch._assert_async((starts.sum() <= slots) & (ends.diff() <= longest).all(), CAPACITY_EXCEEDED)
    return ends


@cu_seqlens.register_fake
def _(starts: Tensor, slots: int, longest: int) -> Tensor:
    return starts.new_empty(slots + 1, dtype=torch.int32)


class VarlenCore(AttentionCore):
    """The fast twin of an `SDPACore` whose masks are windows, documents or segments, for whole sequences.

    `capacity`: the most segments of a batch and the longest of them, constants, so that a compiled graph has one shape.
    `SegmentCapacityManager` keeps it large enough; a batch beyond it fails on the device with a message. Raises `Unsupported`
    for masks of another kind.
    """

    def __init__(self, plain: SDPACore) -> None:
        super().__init__()
        self.varlen_attn = load_varlen_attention()
        self.window_left, self.segment_lengths = -1, []  # -1 is no window; the caps of segments, 0 for none
        for mask in plain.masks:
            if isinstance(mask, SlidingWindowMask):
                self.window_left = mask.left if self.window_left < 0 else min(self.window_left, mask.left)
            elif isinstance(mask, DocumentMask | SegmentMask):
                self.segment_lengths.append(mask.max_length if isinstance(mask, SegmentMask) else 0)
            else:
                raise Unsupported(f"{type(mask).__name__} does not cut rows into segments")
        self.capacity = SegmentCapacity(SEGMENT_COUNT_MULTIPLE, SEQLEN_MULTIPLE)

    def set_capacity(self, capacity: SegmentCapacity) -> None:
        """Sizes for the next forward: a graph that contains this core guards on them, and is compiled once more."""
        self.capacity = capacity

    def cu_seqlens(self, context: ForwardContext) -> Tensor:
        """Cumulative lengths of the segments, int32: 0, ends, and B T as often as fills the room."""
        rows, length = context.ids.shape
        if not self.segment_lengths:
            return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=context.ids.device)
        starts = (
            torch.stack([segment_starts(context.document_ids, cap) for cap in self.segment_lengths]).any(0).flatten()
        )
        return cu_seqlens(starts, *self.capacity)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        ends = context.cached(
            ("segment ends", tuple(self.segment_lengths), self.capacity), lambda: self.cu_seqlens(context)
        )
        longest = min(self.capacity.max_seqlen, q.shape[1]) if self.segment_lengths else q.shape[1]
        q, k, v = (x.flatten(0, 1) for x in to_autocast_dtype(q, k, v))
        return self.kernel(q, k, v, ends, longest).view(*context.ids.shape, *q.shape[1:])

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        """The kernel: q (B T, H, d), k and v (B T, G, d), ends (N + 1) -> (B T, H, d)."""
        y = self.varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(self.window_left, 0))
        assert isinstance(y, Tensor)  # as no further results are asked for
        return y
