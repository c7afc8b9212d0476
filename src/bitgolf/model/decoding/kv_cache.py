"""The cache of incremental decoding: token ids, and each layer's keys and values, of several texts side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NGRAM_LOOKBACK = 8  # tokens before the oldest that counts, which parts that read n-grams may still ask for


class KVCache:
    """Tokens, keys and values of B rows, in buffers of `capacity` slots; a row's tokens stand in a run of slots.

    For each row, (B,) int64, on the CPU as they steer what is run: `lengths`, the first slot that is free; `oldest`, the
    oldest slot that counts; `offsets`, the position in the row's text of its slot 0.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.lengths, self.oldest, self.offsets = torch.zeros(3, rows, dtype=torch.int64)
        self.ids = torch.zeros(rows, capacity, dtype=torch.int64, device=device)
        self.buffers: dict[Any, Tensor] = {}
        self.recurrent_state: dict[
            Any, Tensor
        ] = {}  # (B, 1, …), one position's worth: what came last, or a running sum

    def buffer(self, key: Any, like: Tensor) -> Tensor:
        """(B, capacity, …) of the kind of `like` (b, n, …)."""
        if key not in self.buffers:
            self.buffers[key] = like.new_zeros((*self.ids.shape, *like.shape[2:]))
        return self.buffers[key]

    def state_for(self, key: Any, like: Tensor) -> Tensor:
        """(B, 1, …) of the kind of `like` (b, n, …), zeros where nothing was read."""
        if key not in self.recurrent_state:
            self.recurrent_state[key] = like.new_zeros((len(self.ids), 1, *like.shape[2:]))
        return self.recurrent_state[key]

    def reset(self, rows: Tensor) -> None:
        """These rows, (b,), are as if they had never read. What their slots hold is overwritten before it is seen."""
        for of_rows in (self.lengths, self.oldest, self.offsets):
            of_rows[rows] = 0
        for value in self.recurrent_state.values():
            value[rows.to(value.device)] = 0

    def evict(self, rows: Tensor, counts: Tensor, window: int) -> None:
        """Make room for `counts` more tokens in these rows, (b,): of what they held, all that would leave a window of so
        many tokens counts no more. It is moved out where slots run out: so a capacity above the window saves moves.
        """
        lengths = self.lengths[rows]
        ends = lengths + counts
        self.oldest[rows] = torch.maximum(self.oldest[rows], torch.minimum(ends - window, lengths))
        crowded = rows[ends > self.capacity]
        spare = (self.oldest[crowded] - NGRAM_LOOKBACK).clamp_min(0)
        for slots in spare.unique().tolist():
            self._shift_left(crowded[spare == slots], slots)

    def _shift_left(self, rows: Tensor, slots: int) -> None:
        """Move these rows so many slots to the front."""
        held = int(self.lengths[rows].max()) - slots
        own = rows.to(self.ids.device)
        for buffer in (self.ids, *self.buffers.values()):
            buffer[own, :held] = buffer[own, slots : slots + held]
        self.lengths[rows] -= slots
        self.oldest[rows] -= slots
        self.offsets[rows] += slots
