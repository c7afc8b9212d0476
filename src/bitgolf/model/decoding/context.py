"""The forward context of incremental decoding: positions continue, and earlier keys and values come from a cache.

The rows of a batch are independent texts, which may differ in length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.model.attention.rope_scaling import RoPEScaling
from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM


def _all_equal(numbers: Tensor) -> bool:
    return bool((numbers == numbers[0]).all())


class DecodingContext(ForwardContext):
    """Forward context that continues the texts in a `KVCache`.

    ids: (b, T), new tokens.  rows: (b,), the cache rows they belong to; None for all rows.  counts: (b,), the number of
    valid tokens in each row of ids. The rest is padding: it is not stored in the cache, and no token attends to it. The
    caller must ensure that the tokens fit into the cache.
    """

    full_sequence = False

    def __init__(
        self,
        ids: Tensor,
        bos: int,
        cache: KVCache,
        rows: Tensor | None = None,
        counts: Tensor | None = None,
        rope_scaling: RoPEScaling | None = None,
    ) -> None:
        super().__init__(ids, bos, rope_scaling)
        height, width = ids.shape
        self.cache = cache
        self.rows = slice(None) if rows is None else rows.to(ids.device)
        self.cache_rows = slice(None) if rows is None else rows
        self.lengths, self.oldest, self.offsets = (
            cache.lengths[self.cache_rows],
            cache.oldest[self.cache_rows],
            cache.offsets[self.cache_rows],
        )
        self.counts = torch.full((height,), width) if counts is None else counts
        # aligned: all rows have the same positions
        self.aligned = all(_all_equal(x) for x in (self.lengths, self.oldest, self.offsets))
        self.first, self.end = int(self.oldest.min()), int((self.lengths + self.counts).max())
        self.is_prefill = self.aligned and int(self.lengths[0]) == 0
        self.valid, self.slots = self._slots(rows)
        cache.ids[self.slots] = ids[self.valid]

    def _slots(self, rows: Tensor | None) -> tuple[Any, Any]:
        """Indices of the valid tokens within ids, and of their slots in the cache."""
        height, width = self.ids.shape
        if rows is None and self.aligned and bool((self.counts == width).all()):
            return ..., (slice(None), slice(int(self.lengths[0]), int(self.lengths[0]) + width))
        row, column = (torch.arange(width) < self.counts[:, None]).nonzero(as_tuple=True)
        cache_row = torch.arange(height)[row] if rows is None else rows[row]
        valid, slots = (row, column), (cache_row, self.lengths[row] + column)
        return tuple(i.to(self.ids.device) for i in valid), tuple(i.to(self.ids.device) for i in slots)

    def _per_row(self, values: Tensor) -> Tensor:
        """Values per row, (b,), shaped to be added to positions: (1,) if the rows are aligned, otherwise (b, 1)."""
        return (values[:1] if self.aligned else values[:, None]).to(self.ids.device)

    def commit(self) -> None:
        """Add the new tokens to the lengths of the cache. Call it after the forward pass."""
        self.cache.lengths[self.cache_rows] += self.counts

    @property
    def positions(self) -> Tensor:
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.cached("positions", lambda: self._per_row(self.offsets + self.lengths) + columns)

    @property
    def key_positions(self) -> Tensor:
        slots = torch.arange(self.first, self.end, device=self.ids.device)
        return self.cached("key_positions", lambda: self._per_row(self.offsets) + slots)

    @property
    def first_key_position(self) -> Tensor | int:
        return self.cached("oldest", lambda: self._per_row(self.offsets + self.oldest))

    def rotary_angles(self, frequencies: Tensor) -> Tensor:
        """Positions times frequencies, in float64: after a million tokens, a float32 angle is wrong by 0.06 radians."""
        return self.positions.double()[..., None] * frequencies.double()

    @property
    def key_document_ids(self) -> Tensor:
        return self.cached("key_documents", self._key_documents)

    def _key_documents(self) -> Tensor:
        """Document indices counted from the first slot in use. Keys that are no longer valid get the index -1."""
        documents = (self.cache.ids[self.rows, self.first : self.end] == self.bos).cumsum(1)
        return documents.masked_fill(self.key_positions < self.first_key_position, -1)

    @property
    def document_ids(self) -> Tensor:
        return self.cached("documents", lambda: self.at_queries(self.key_document_ids))

    def at_queries(self, of_keys: Tensor) -> Tensor:
        return of_keys.gather(1, self._columns_from(self.lengths - self.first, of_keys.shape[1]))

    def previous_ids(self, n: int) -> Tensor:
        ids = self.cache.ids[self.rows, : self.end]
        return F.pad(ids, (n, 0), value=-1).gather(1, self._columns_from(self.lengths, self.end))

    def _columns_from(self, start: Tensor, end: int) -> Tensor:
        """Column indices from `start` (b,) on, (b, T). Those of padding are arbitrary, but below `end`."""
        columns = start[:, None] + torch.arange(self.ids.shape[1])
        return columns.clamp_max(end - 1).to(self.ids.device)

    def update_kv(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        key = (id(part), self.visit)
        return self._append((key, "k"), k), self._append((key, "v"), v)

    def _append(self, key: Any, new: Tensor) -> Tensor:
        """Store (b, T, …) in the cache and return the cached and the new entries, (b, S, …)."""
        buffer = self.cache.buffer(key, new)
        buffer[self.slots] = new[self.valid]
        return new if self.is_prefill else buffer[self.rows, self.first : self.end]

    def token_shift(self, part: nn.Module, x: Tensor, steps: int = 1) -> Tensor:
        for step in range(steps):  # each keeps one position, whatever the number of new tokens
            key = (id(part), self.visit, "last", steps, step)
            extended = torch.cat([self._state(key, x), x], 1)
            self._store_state(key, extended)
            x = extended[:, :-1]
        return x

    def cumsum(self, part: nn.Module, x: Tensor) -> Tensor:
        total = torch.cat([self._state((id(part), self.visit, "sum"), x), x], 1).cumsum(1)
        self._store_state((id(part), self.visit, "sum"), total)
        return total[:, 1:]

    def _state(self, key: Any, x: Tensor) -> Tensor:
        return self.cache.state_for(key, x)[self.rows]

    def _store_state(self, key: Any, states: Tensor) -> None:
        """Store the state after the last valid token of each row.

        states: (b, 1 + T, …), the old state followed by those after each token.
        """
        rows = torch.arange(len(states), device=states.device)
        self.cache.recurrent_state[key][self.rows] = states[rows, self.counts.to(states.device)][:, None]

    def attention_mask(self, parts: Any) -> tuple[Tensor | None, bool]:
        if not parts and self.is_prefill:
            return None, True
        return self.cached(("mask", tuple(map(id, parts))), lambda: self._combined_mask(parts)), False

    def _combined_mask(self, parts: Any) -> Tensor:
        mask = super()._combined_mask(parts)
        return mask if self.aligned else mask & (self.key_positions >= self.first_key_position)[:, None, None]


@torch.no_grad()
def decode(
    model: LM,
    cache: KVCache,
    ids: Tensor,
    rows: Tensor | None = None,
    counts: Tensor | None = None,
    rope_scaling: RoPEScaling | None = None,
) -> Tensor:
    """Process new tokens of the texts in a cache and commit them. Returns the final hidden states, (b, T, D).

    ids: (b, T).  rows: (b,), rows of the cache; None for all.  counts: (b,) on the CPU with maximum T, the number of
    valid tokens in each row; the rest is padding, at which the states are meaningless. The caller must ensure that the
    tokens fit into the cache.  rope_scaling: replaces the model's own scaling of rotary positions.
    """
    context = DecodingContext(ids, model.bos, cache, rows, counts, rope_scaling)
    hidden = model.hidden(context)
    context.commit()
    return hidden
