"""Segments: the stretches of packed text inside which attention stays. Variable-length kernels take their boundaries.

A segment starts at the start of a row, at each document, and every `cap` tokens within a document (Parameter Golf #1530).
The first one of a row may start in the middle of a document; its cap is counted from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SEGMENT_COUNT_MULTIPLE, SEQLEN_MULTIPLE = 64, 256
"""Room for segments comes in multiples of these: how many, and tokens in the longest."""
HEADROOM = 1.25
"""Room at the start, over what the first batches need."""


def segment_starts(documents: Tensor, cap: int) -> Tensor:
    """True where a segment starts, (B, T), from the number of each token's document (B, T). A cap of 0 is none."""
    new = documents.diff(prepend=documents[:, :1] - 1) != 0
    if not cap:
        return new
    place = torch.arange(documents.shape[1], device=documents.device)
    begun = torch.where(new, place, 0).cummax(1).values  # where the document of each token starts
    return (place - begun) % cap == 0


class SegmentCapacity(NamedTuple):
    """Sizes that a compiled graph of a variable-length kernel is made for: the most segments, the tokens in the longest."""

    max_segments: int
    max_seqlen: int


def required_capacity(ids: npt.ArrayLike, bos: int, caps: Sequence[int]) -> SegmentCapacity:
    """How many segments rows (B, T) have at most, and the tokens in the longest; computed on the host.

    caps: those that cut segments, 0 for none; exact for one cap, an upper bound for several.
    """
    starts = np.asarray(ids) == bos
    starts[:, 0] = True
    lengths = np.diff(np.flatnonzero(starts), append=starts.size)
    cuts = sum(int(((lengths - 1) // cap).sum()) for cap in caps if cap)
    return SegmentCapacity(len(lengths) + cuts, min([int(lengths.max()), *(cap for cap in caps if cap)]))


def max_required_capacity(batches: Sequence[npt.ArrayLike], bos: int, caps: Sequence[int]) -> SegmentCapacity:
    """What the largest of some batches (B, T) needs."""
    sizes = [required_capacity(ids, bos, caps) for ids in batches]
    return SegmentCapacity(max(size.max_segments for size in sizes), max(size.max_seqlen for size in sizes))


def round_up_capacity(slots: float, longest: float, caps: Sequence[int], row_length: int) -> SegmentCapacity:
    """Room rounded up to multiples of (`SEGMENT_COUNT_MULTIPLE`, `SEQLEN_MULTIPLE`), so that graphs are compiled for few sizes.

    No segment is longer than a row or a cap; where there is a cap, it is taken at once.
    """
    limit = min([row_length, *(cap for cap in caps if cap)])
    return SegmentCapacity(
        SEGMENT_COUNT_MULTIPLE * ceil(slots / SEGMENT_COUNT_MULTIPLE),
        limit if any(caps) else min(SEQLEN_MULTIPLE * ceil(longest / SEQLEN_MULTIPLE), limit),
    )


@runtime_checkable
class SegmentedCore(Protocol):
    """A core whose kernel takes the boundaries of segments: what cuts them, and the room it has."""

    segment_lengths: list[int]
    capacity: SegmentCapacity

    def set_capacity(self, capacity: SegmentCapacity) -> None:
        """The room that it has from now on."""
        ...


class SegmentCapacityManager:
    """Keeps the cores of a model roomy enough for each batch, from its ids on the host, without waiting for the device.

    A batch that needs more takes the next bucket, twice as large: graphs that contain the core are compiled once more.
    Much more room than needed costs time: kernels start programs for every slot, and for every block of the longest.
    """

    def __init__(self, root: nn.Module, bos: int, say: Callable[[str], object]) -> None:
        self.cores = [m for m in root.modules() if isinstance(m, SegmentedCore) and m.segment_lengths]
        self.bos, self.say = bos, say

    def reserve(self, batches: Sequence[npt.ArrayLike]) -> None:
        """Set the room to what the largest of these batches (B, T) needs, and a quarter more."""
        row = max(np.shape(ids)[1] for ids in batches)
        for core in self.cores:
            slots, longest = max_required_capacity(batches, self.bos, core.segment_lengths)
            core.set_capacity(round_up_capacity(HEADROOM * slots, HEADROOM * longest, core.segment_lengths, row))

    def ensure(self, ids: npt.ArrayLike, rows_at_once: int = 0) -> None:
        """Make room for ids (B, T) on the host, read `rows_at_once` at a time (0: all at once)."""
        ids = np.asarray(ids)
        pieces = [ids[i : i + (rows_at_once or len(ids))] for i in range(0, len(ids), rows_at_once or len(ids))]
        wanted = {
            caps: max_required_capacity(pieces, self.bos, caps)
            for caps in {tuple(core.segment_lengths) for core in self.cores}
        }
        grown: set[SegmentCapacity] = set()
        for core in self.cores:
            room, (slots, longest) = core.capacity, wanted[tuple(core.segment_lengths)]
            if slots > room.max_segments or longest > room.max_seqlen:
                sizes = _doubled_if_exceeded(room.max_segments, slots), _doubled_if_exceeded(room.max_seqlen, longest)
                core.set_capacity(
                    SegmentCapacity(*map(max, room, round_up_capacity(*sizes, core.segment_lengths, ids.shape[1])))
                )
                grown.add(core.capacity)
        for room in sorted(grown):
            self.say(
                f"attention: room for {room.max_segments:,} segments of at most {room.max_seqlen:,} tokens in a batch"
            )


def _doubled_if_exceeded(have: int, wanted: int) -> int:
    return have if wanted <= have else max(wanted, 2 * have)
