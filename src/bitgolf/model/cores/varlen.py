"""Variable-length attention: rows laid end to end, cut into segments that never see each other (Parameter Golf #1530)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from bitgolf.model.core import Bus
from bitgolf.model.cores.fused import as_autocast
from bitgolf.model.cores.sdpa import SameDocument, Sdpa, Segments, Window
from bitgolf.model.cores.segments import segment_starts
from bitgolf.model.sockets import Core

TOO_MANY = "more segments in a batch than were counted on; set train.kernels to 'plain', or train on longer documents"


class Varlen(Core):
    """The fast twin of an `Sdpa` whose masks are windows, documents or segments, for whole sequences in training.

    `slots`: the most segments that a batch may hold, a constant, so that a compiled graph has one shape; a batch that
    holds more fails on the device with a message. Raises `ValueError` for masks of another kind.
    """

    def __init__(self, plain: Sdpa, slots: int) -> None:
        super().__init__()
        self.grouped, self.slots = plain.grouped, slots
        self.width, self.caps = -1, []  # -1 is no window; the caps of segments, 0 for none
        for mask in plain.masks:
            if isinstance(mask, Window):
                self.width = mask.width if self.width < 0 else min(self.width, mask.width)
            elif isinstance(mask, SameDocument | Segments):
                self.caps.append(mask.cap if isinstance(mask, Segments) else 0)
            else:
                raise ValueError(f"{type(mask).__name__} does not cut rows into segments")
        self.longest = min((cap for cap in self.caps if cap), default=0)  # 0 where nothing limits a segment

    def ends(self, bus: Bus) -> Tensor:
        """Cumulative lengths of the segments, int32: 0, ends, and B T as often as fills the slots."""
        rows, length = bus.ids.shape
        if not self.caps:
            return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=bus.ids.device)
        starts = torch.stack([segment_starts(bus.documents, cap) for cap in self.caps]).any(0).flatten()
        torch._assert_async(starts.sum() <= self.slots, TOO_MANY)
        return torch.nonzero_static(starts, size=self.slots + 1, fill_value=rows * length).flatten().int()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        ends = bus.memo(("segment ends", tuple(self.caps), self.slots), lambda: self.ends(bus))
        longest = min(self.longest or q.shape[1], q.shape[1])
        q, k, v = as_autocast(q, k, v)
        y = varlen_attn(
            q.flatten(0, 1),
            k.flatten(0, 1),
            v.flatten(0, 1),
            ends,
            ends,
            longest,
            longest,
            window_size=(self.width, 0),
            enable_gqa=self.grouped,
        )
        assert isinstance(y, Tensor)  # as no further results are asked for
        return y.unflatten(0, q.shape[:2])
