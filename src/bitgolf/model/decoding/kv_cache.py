"""The cache of incremental decoding: token ids, and the keys and values of each layer, for several texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NGRAM_LOOKBACK = 8  # tokens before the oldest valid one that stay available to n-gram parts


class KVCache:
    """Tokens, keys and values of B rows, in buffers of `capacity` slots. The tokens of a row are in consecutive slots.

    Three int64 tensors (B,): `lengths`, the first free slot of each row; `oldest`, its oldest valid slot; `offsets`,
    the position of its slot 0 in the text. They are on the CPU because control flow depends on them.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.lengths, self.oldest, self.offsets = torch.zeros(3, rows, dtype=torch.int64)
        self.ids = torch.zeros(rows, capacity, dtype=torch.int64, device=device)
        self.buffers: dict[Any, Tensor] = {}
        self.recurrent_state: dict[Any, Tensor] = {}  # (B, 1, …): values of the last position, or cumulative sums

    def buffer(self, key: Any, like: Tensor) -> Tensor:
        """The buffer (B, capacity, …) of a key, with the dtype and trailing dimensions of `like` (b, n, …)."""
        if key not in self.buffers:
            self.buffers[key] = like.new_zeros((*self.ids.shape, *like.shape[2:]))
        return self.buffers[key]

    def state_for(self, key: Any, like: Tensor) -> Tensor:
        """The state (B, 1, …) of a key, initially zero, with the dtype and trailing dimensions of `like` (b, n, …)."""
        if key not in self.recurrent_state:
            self.recurrent_state[key] = like.new_zeros((len(self.ids), 1, *like.shape[2:]))
        return self.recurrent_state[key]

    def reset(self, rows: Tensor) -> None:
        """Empty rows (b,). The contents of their slots stay, but are overwritten before they are used."""
        for values in (self.lengths, self.oldest, self.offsets):
            values[rows] = 0
        for state in self.recurrent_state.values():
            state[rows.to(state.device)] = 0

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (b,), which get the numbers 0 to b - 1."""
        self.lengths, self.oldest, self.offsets = self.lengths[rows], self.oldest[rows], self.offsets[rows]
        own = rows.to(self.ids.device)
        self.ids = self.ids[own]
        for states in (self.buffers, self.recurrent_state):
            for key, values in states.items():
                states[key] = values[own]

    def evict(self, rows: Tensor, counts: Tensor, window: int) -> None:
        """Make space for `counts` more tokens in rows (b,). Tokens that then leave the window become invalid.

        They are moved out of the buffers only if a row runs out of slots, so a capacity above `window` saves moves.
        """
        lengths = self.lengths[rows]
        ends = lengths + counts
        self.oldest[rows] = torch.maximum(self.oldest[rows], torch.minimum(ends - window, lengths))
        crowded = rows[ends > self.capacity]
        spare = (self.oldest[crowded] - NGRAM_LOOKBACK).clamp_min(0)
        for slots in spare.unique().tolist():
            self._shift_left(crowded[spare == slots], slots)

    def _shift_left(self, rows: Tensor, slots: int) -> None:
        """Move the contents of rows `slots` slots to the front."""
        kept = int(self.lengths[rows].max()) - slots
        indices = rows.to(self.ids.device)
        for buffer in (self.ids, *self.buffers.values()):
            buffer[indices, :kept] = buffer[indices, slots : slots + kept]
        self.lengths[rows] -= slots
        self.oldest[rows] -= slots
        self.offsets[rows] += slots
