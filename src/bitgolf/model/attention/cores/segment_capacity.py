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

SLOTS, LONGEST = 64, 256
"""Room for segments comes in multiples of these: how many, and tokens in the longest."""
SPARE = 1.25
"""Room at the start, over what the first batches need."""


def segment_starts(documents: Tensor, cap: int) -> Tensor:
    """True where a segment starts, (B, T), from the number of each token's document (B, T). A cap of 0 is none."""
    new = documents.diff(prepend=documents[:, :1] - 1) != 0
    if not cap:
        return new
    place = torch.arange(documents.shape[1], device=documents.device)
    begun = torch.where(new, place, 0).cummax(1).values  # where the document of each token starts
    return (place - begun) % cap == 0


class Room(NamedTuple):
    """Sizes that a compiled graph of a variable-length kernel is made for: the most segments, the tokens in the longest."""

    slots: int
    longest: int


def needed(ids: npt.ArrayLike, bos: int, caps: Sequence[int]) -> Room:
    """How many segments rows (B, T) have at most, and the tokens in the longest; computed on the host.

    caps: those that cut segments, 0 for none; exact for one cap, an upper bound for several.
    """
    starts = np.asarray(ids) == bos
    starts[:, 0] = True
    lengths = np.diff(np.flatnonzero(starts), append=starts.size)
    cuts = sum(int(((lengths - 1) // cap).sum()) for cap in caps if cap)
    return Room(len(lengths) + cuts, min([int(lengths.max()), *(cap for cap in caps if cap)]))


def most(batches: Sequence[npt.ArrayLike], bos: int, caps: Sequence[int]) -> Room:
    """What the largest of some batches (B, T) needs."""
    sizes = [needed(ids, bos, caps) for ids in batches]
    return Room(max(size.slots for size in sizes), max(size.longest for size in sizes))


def rounded(slots: float, longest: float, caps: Sequence[int], row: int) -> Room:
    """Room rounded up to multiples of (`SLOTS`, `LONGEST`), so that graphs are compiled for few sizes.

    No segment is longer than a row or a cap; where there is a cap, it is taken at once.
    """
    limit = min([row, *(cap for cap in caps if cap)])
    return Room(SLOTS * ceil(slots / SLOTS), limit if any(caps) else min(LONGEST * ceil(longest / LONGEST), limit))


@runtime_checkable
class Segmented(Protocol):
    """A core whose kernel takes the boundaries of segments: what cuts them, and the room it has."""

    caps: list[int]
    room: Room

    def set_capacity(self, capacity: Room) -> None:
        """The room that it has from now on."""
        ...


class SegmentSlots:
    """Keeps the cores of a model roomy enough for each batch, from its ids on the host, without waiting for the device.

    A batch that needs more takes the next bucket, twice as large: graphs that contain the core are compiled once more.
    Much more room than needed costs time: kernels start programs for every slot, and for every block of the longest.
    """

    def __init__(self, root: nn.Module, bos: int, say: Callable[[str], object]) -> None:
        self.cores = [m for m in root.modules() if isinstance(m, Segmented) and m.caps]
        self.bos, self.say = bos, say

    def reserve(self, batches: Sequence[npt.ArrayLike]) -> None:
        """Set the room to what the largest of these batches (B, T) needs, and a quarter more."""
        row = max(np.shape(ids)[1] for ids in batches)
        for core in self.cores:
            slots, longest = most(batches, self.bos, core.caps)
            core.set_capacity(rounded(SPARE * slots, SPARE * longest, core.caps, row))

    def fit(self, ids: npt.ArrayLike, rows: int = 0) -> None:
        """Make room for ids (B, T) on the host, read `rows` at a time (0: all at once)."""
        ids = np.asarray(ids)
        pieces = [ids[i : i + (rows or len(ids))] for i in range(0, len(ids), rows or len(ids))]
        wanted = {caps: most(pieces, self.bos, caps) for caps in {tuple(core.caps) for core in self.cores}}
        grown: set[Room] = set()
        for core in self.cores:
            room, (slots, longest) = core.room, wanted[tuple(core.caps)]
            if slots > room.slots or longest > room.longest:
                sizes = _grown(room.slots, slots), _grown(room.longest, longest)
                core.set_capacity(Room(*map(max, room, rounded(*sizes, core.caps, ids.shape[1]))))
                grown.add(core.room)
        for room in sorted(grown):
            self.say(f"attention: room for {room.slots:,} segments of at most {room.longest:,} tokens in a batch")


def _grown(have: int, wanted: int) -> int:
    return have if wanted <= have else max(wanted, 2 * have)
