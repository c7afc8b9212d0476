"""Segments: the stretches of packed text inside which attention stays. Variable-length kernels take their boundaries.

A segment starts at the start of a row, at each document, and every `cap` tokens within a document (Parameter Golf #1530).
The first one of a row may start in the middle of a document; its cap is counted from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SLOTS, LONGEST = 64, 256
"""The smallest room for segments: how many, and tokens in each."""


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


class Room(NamedTuple):
    """Sizes that a compiled graph of a variable-length kernel is made for: the most segments, the tokens in the longest."""

    slots: int
    longest: int

    def covers(self, other: Room) -> bool:
        return self.slots >= other.slots and self.longest >= other.longest


def needed(ids: npt.ArrayLike, bos: int, caps: Sequence[int]) -> Room:
    """How many segments rows (B, T) have at most, and the tokens in the longest; computed on the host.

    caps: those that cut segments, 0 for none; exact for one cap, an upper bound for several.
    """
    starts = np.asarray(ids) == bos
    starts[:, 0] = True
    lengths = np.diff(np.flatnonzero(starts), append=starts.size)
    cuts = sum(int(((lengths - 1) // cap).sum()) for cap in caps if cap)
    return Room(len(lengths) + cuts, min([int(lengths.max()), *(cap for cap in caps if cap)]))


def bucket(room: Room, caps: Sequence[int], row: int) -> Room:
    """Room rounded up to the sizes that graphs are compiled for: doubling from (`SLOTS`, `LONGEST`).

    No segment is longer than a row or a cap: where that limits it, the limit is taken at once.
    """
    capped = min((cap for cap in caps if cap), default=0)
    longest = min(capped, row) if capped else min(_doubled(LONGEST, room.longest), row)
    return Room(_doubled(SLOTS, room.slots), longest)


def _doubled(least: int, count: int) -> int:
    return least << max(0, -(-count // least) - 1).bit_length()


@runtime_checkable
class Segmented(Protocol):
    """A core whose kernel takes the boundaries of segments: what cuts them, and the room it has."""

    caps: list[int]
    room: Room


class SegmentSlots:
    """Keeps the cores of a model roomy enough for each batch, from its ids on the host, without waiting for the device.

    A batch that needs more takes the next bucket: the graphs that contain the core are then compiled once more.
    """

    def __init__(self, root: nn.Module, bos: int, say: Callable[[str], object]) -> None:
        self.cores = [m for m in root.modules() if isinstance(m, Segmented) and m.caps]
        self.bos, self.say = bos, say

    def fit(self, ids: npt.ArrayLike, rows: int = 0, spare: int = 1) -> None:
        """Make room for ids (B, T) on the host, read `rows` at a time (0: all at once), and for `spare` times as much."""
        ids = np.asarray(ids)
        groups: dict[tuple[int, ...], list[Segmented]] = {}
        for core in self.cores:
            groups.setdefault(tuple(core.caps), []).append(core)
        for caps, cores in groups.items():
            at_once = rows or len(ids)
            sizes = [needed(ids[i : i + at_once], self.bos, caps) for i in range(0, len(ids), at_once)]
            most = Room(spare * max(s.slots for s in sizes), spare * max(s.longest for s in sizes))
            self._grow(cores, bucket(most, caps, ids.shape[1]))

    def _grow(self, cores: list[Segmented], wanted: Room) -> None:
        if all(core.room.covers(wanted) for core in cores):
            return
        for core in cores:
            core.room = Room(max(core.room.slots, wanted.slots), max(core.room.longest, wanted.longest))
        self.say(
            f"attention: room for {cores[0].room.slots:,} segments of at most {cores[0].room.longest:,} tokens in a batch"
        )
