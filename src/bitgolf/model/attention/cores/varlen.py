"""Variable-length attention: rows laid end to end, cut into segments that never see each other (Parameter Golf #1530)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.model.attention.cores.sdpa import SameDocument, Sdpa, Segments, Window
from bitgolf.model.attention.cores.sdpa_backend import as_autocast
from bitgolf.model.attention.cores.segment_capacity import LONGEST, SLOTS, Room, segment_starts
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Core
from bitgolf.runtime.compat import varlen_attention

varlen_attn = varlen_attention()
NO_ROOM = "a batch has more or longer segments than its attention has room for; set train.kernels to 'plain'"


@torch.library.custom_op("bitgolf::segment_ends", mutates_args=())
def segment_ends(starts: Tensor, slots: int, longest: int) -> Tensor:
    """Cumulative lengths of segments, int32 (slots + 1): 0, ends, and the number of tokens N as often as fills the slots.

    starts: (N,), True where a segment starts. Fails on the device where there are more than `slots`, or longer ones than
    `longest`. An operator, because the partitioner that limits a graph's activations takes no assertion of the device.
    """
    ends = torch.nonzero_static(starts, size=slots + 1, fill_value=len(starts)).flatten().int()
    torch._assert_async((starts.sum() <= slots) & (ends.diff() <= longest).all(), NO_ROOM)
    return ends


@segment_ends.register_fake
def _(starts: Tensor, slots: int, longest: int) -> Tensor:
    return starts.new_empty(slots + 1, dtype=torch.int32)


class Varlen(Core):
    """The fast twin of an `Sdpa` whose masks are windows, documents or segments, for whole sequences.

    `room`: the most segments of a batch and the longest of them, constants, so that a compiled graph has one shape.
    `SegmentSlots` keeps it large enough; a batch beyond it fails on the device with a message. Raises `Unsupported`
    for masks of another kind.
    """

    def __init__(self, plain: Sdpa) -> None:
        super().__init__()
        self.width, self.caps = -1, []  # -1 is no window; the caps of segments, 0 for none
        for mask in plain.masks:
            if isinstance(mask, Window):
                self.width = mask.width if self.width < 0 else min(self.width, mask.width)
            elif isinstance(mask, SameDocument | Segments):
                self.caps.append(mask.cap if isinstance(mask, Segments) else 0)
            else:
                raise Unsupported(f"{type(mask).__name__} does not cut rows into segments")
        self.room = Room(SLOTS, LONGEST)

    def set_capacity(self, capacity: Room) -> None:
        """Sizes for the next forward: a graph that contains this core guards on them, and is compiled once more."""
        self.room = capacity

    def ends(self, bus: Bus) -> Tensor:
        """Cumulative lengths of the segments, int32: 0, ends, and B T as often as fills the room."""
        rows, length = bus.ids.shape
        if not self.caps:
            return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=bus.ids.device)
        starts = torch.stack([segment_starts(bus.documents, cap) for cap in self.caps]).any(0).flatten()
        return segment_ends(starts, *self.room)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        ends = bus.memo(("segment ends", tuple(self.caps), self.room), lambda: self.ends(bus))
        longest = min(self.room.longest, q.shape[1]) if self.caps else q.shape[1]
        q, k, v = (x.flatten(0, 1) for x in as_autocast(q, k, v))
        return self.attend(q, k, v, ends, longest).view(*bus.ids.shape, *q.shape[1:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        """The kernel: q (B T, H, d), k and v (B T, G, d), ends (N + 1) -> (B T, H, d)."""
        y = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(self.width, 0))
        assert isinstance(y, Tensor)  # as no further results are asked for
        return y
