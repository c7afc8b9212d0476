"""Segments of packed rows, within which attention stays, and the segment capacity of variable-length kernels.

A segment starts at the start of a row, at each document start, and every `cap` tokens within a document (Parameter Golf
#1530). The first segment of a row may start in the middle of a document; its cap is counted from the start of the row.
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
"""Capacities are multiples of these: the number of segments, and the tokens of the longest segment."""
HEADROOM = 1.25
"""Ratio of the initial capacity to what the first batches require."""


def segment_starts(documents: Tensor, cap: int) -> Tensor:
    """True where a segment starts, (B, T), from the document index of each token, (B, T). cap=0 means no cap."""
    new = documents.diff(prepend=documents[:, :1] - 1) != 0
    if not cap:
        return new
    position = torch.arange(documents.shape[1], device=documents.device)
    document_start = torch.where(new, position, 0).cummax(1).values
    return (position - document_start) % cap == 0


class SegmentCapacity(NamedTuple):
    """Sizes for which a variable-length kernel is compiled: number of segments, and tokens of the longest segment."""

    max_segments: int
    max_seqlen: int


class SegmentLimits(NamedTuple):
    """The smallest and the largest of the maximum segment lengths that a mask has during a run; 0 means no limit."""

    shortest: int
    longest: int


def required_capacity(ids: npt.ArrayLike, bos: int, caps: Sequence[int]) -> SegmentCapacity:
    """Capacity that ids (B, T) require, computed on the host.

    caps: maximum segment lengths in tokens, 0 for no limit. Exact for one cap, an upper bound for several.
    """
    starts = np.asarray(ids) == bos
    starts[:, 0] = True
    lengths = np.diff(np.flatnonzero(starts), append=starts.size)
    cuts = sum(int(((lengths - 1) // cap).sum()) for cap in caps if cap)
    return SegmentCapacity(len(lengths) + cuts, min([int(lengths.max()), *(cap for cap in caps if cap)]))


def max_required_capacity(batches: Sequence[npt.ArrayLike], bos: int, caps: Sequence[int]) -> SegmentCapacity:
    """Maximum of the capacities that batches (B, T) require, for each size separately."""
    sizes = [required_capacity(ids, bos, caps) for ids in batches]
    return SegmentCapacity(max(size.max_segments for size in sizes), max(size.max_seqlen for size in sizes))


def round_up_capacity(slots: float, longest: float, caps: Sequence[int], row_length: int) -> SegmentCapacity:
    """Capacity, rounded up so that graphs are compiled for few sizes.

    The multiples are `SEGMENT_COUNT_MULTIPLE` and `SEQLEN_MULTIPLE`. No segment is longer than a row or a cap; if there
    is a cap, this limit is used directly.
    """
    limit = min([row_length, *(cap for cap in caps if cap)])
    return SegmentCapacity(
        SEGMENT_COUNT_MULTIPLE * ceil(slots / SEGMENT_COUNT_MULTIPLE),
        limit if any(caps) else min(SEQLEN_MULTIPLE * ceil(longest / SEQLEN_MULTIPLE), limit),
    )


@runtime_checkable
class SegmentedCore(Protocol):
    """An attention core with a variable-length kernel: the limits of the segments of each mask, and the capacity."""

    capacity: SegmentCapacity

    @property
    def segment_limits(self) -> list[SegmentLimits]:
        """The limits of each mask that cuts rows into segments; empty without such a mask."""
        ...

    def set_capacity(self, capacity: SegmentCapacity) -> None:
        """Set the capacity of the following forward passes."""
        ...


class SegmentCapacityManager:
    """Raises the segment capacity of the attention cores of a model as batches require it.

    It uses ids on the host and does not wait for the device. A size that a batch exceeds is at least doubled, and
    graphs that contain the core are compiled again. Excess capacity costs time: kernels start programs for every
    segment, and for every block of the longest segment. A mask whose maximum length changes gets one capacity for the
    whole run, so that a change compiles no further graph.
    """

    def __init__(self, root: nn.Module, bos: int, log: Callable[[str], object]) -> None:
        self.cores = [m for m in root.modules() if isinstance(m, SegmentedCore) and m.segment_limits]
        self.bos, self.log = bos, log

    def reserve(self, batches: Sequence[npt.ArrayLike]) -> None:
        """Set the capacity to what these batches (B, T) require, times `HEADROOM`."""
        row = max(np.shape(ids)[1] for ids in batches)
        for core in self.cores:
            slots, longest = self._required(batches, core.segment_limits)
            caps = [limits.longest for limits in core.segment_limits]
            core.set_capacity(round_up_capacity(HEADROOM * slots, HEADROOM * longest, caps, row))

    def _required(self, batches: Sequence[npt.ArrayLike], limits: Sequence[SegmentLimits]) -> SegmentCapacity:
        """The number of segments with the smallest limits, and the tokens of the longest one with the largest."""
        slots = max_required_capacity(batches, self.bos, [one.shortest for one in limits]).max_segments
        return SegmentCapacity(
            slots, max_required_capacity(batches, self.bos, [one.longest for one in limits]).max_seqlen
        )

    def ensure(self, ids: npt.ArrayLike, rows_at_once: int = 0) -> None:
        """Raise the capacity to fit ids (B, T) on the host, processed `rows_at_once` rows at a time (0: all)."""
        ids = np.asarray(ids)
        pieces = [ids[i : i + (rows_at_once or len(ids))] for i in range(0, len(ids), rows_at_once or len(ids))]
        required = {
            limits: self._required(pieces, limits) for limits in {tuple(core.segment_limits) for core in self.cores}
        }
        grown: set[SegmentCapacity] = set()
        for core in self.cores:
            old, (slots, longest) = core.capacity, required[tuple(core.segment_limits)]
            if slots > old.max_segments or longest > old.max_seqlen:
                sizes = _doubled_if_exceeded(old.max_segments, slots), _doubled_if_exceeded(old.max_seqlen, longest)
                caps = [limits.longest for limits in core.segment_limits]
                core.set_capacity(SegmentCapacity(*map(max, old, round_up_capacity(*sizes, caps, ids.shape[1]))))
                grown.add(core.capacity)
        for new in sorted(grown):
            self.log(
                f"attention: capacity raised to {new.max_segments:,} segments of at most {new.max_seqlen:,} tokens "
                "per batch"
            )


def _doubled_if_exceeded(capacity: int, required: int) -> int:
    return capacity if required <= capacity else max(required, 2 * capacity)
