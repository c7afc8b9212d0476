"""The forward context of incremental decoding: positions continue, and keys and values of the past come from a cache.

Rows are texts side by side. Each has its own length, and no row depends on what another holds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.model.decoding.kv_cache import KVCache
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.lm import LM


def _all_equal(numbers: Tensor) -> bool:
    return bool((numbers == numbers[0]).all())


class DecodingContext(ForwardContext):
    """A bus that goes on where a memory stands: positions continue, keys and values of the past are recalled.

    ids: (b, T) for these `rows` of the memory (b,), all of them where None; `counts` (b,) says how many of a row's ids
    are tokens, the others pad: they are not remembered and no token sees them. Raises nothing: see `decode`.
    """

    full_sequence = False

    def __init__(
        self, ids: Tensor, bos: int, cache: KVCache, rows: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        super().__init__(ids, bos)
        height, width = ids.shape
        self.cache = cache
        self.rows = slice(None) if rows is None else rows.to(ids.device)
        self.cache_rows = slice(None) if rows is None else rows
        self.lengths, self.lows, self.shifts = (
            cache.lengths[self.cache_rows],
            cache.oldest[self.cache_rows],
            cache.offsets[self.cache_rows],
        )
        self.counts = torch.full((height,), width) if counts is None else counts
        self.aligned = all(
            _all_equal(x) for x in (self.lengths, self.lows, self.shifts)
        )  # one set of positions for all rows
        self.first, self.end = int(self.lows.min()), int((self.lengths + self.counts).max())
        self.is_prefill = self.aligned and int(self.lengths[0]) == 0
        self.valid, self.slots = self._slots(rows)
        cache.ids[self.slots] = ids[self.valid]

    def _slots(self, rows: Tensor | None) -> tuple[Any, Any]:
        """Which of the ids are tokens, and the slots they go to: two indices of like shape."""
        height, width = self.ids.shape
        if rows is None and self.aligned and bool((self.counts == width).all()):
            return ..., (slice(None), slice(int(self.lengths[0]), int(self.lengths[0]) + width))
        row, place = (torch.arange(width) < self.counts[:, None]).nonzero(as_tuple=True)
        own = torch.arange(height)[row] if rows is None else rows[row]
        live, slots = (row, place), (own, self.lengths[row] + place)
        return tuple(i.to(self.ids.device) for i in live), tuple(i.to(self.ids.device) for i in slots)

    def _per_row(self, of_rows: Tensor) -> Tensor:
        """A number for each row as it adds to positions: one for all, (1,), or (b, 1)."""
        return (of_rows[:1] if self.aligned else of_rows[:, None]).to(self.ids.device)

    def commit(self) -> None:
        """The forward is over: its tokens are the memory's."""
        self.cache.lengths[self.cache_rows] += self.counts

    @property
    def positions(self) -> Tensor:
        ahead = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.cached("positions", lambda: self._per_row(self.shifts + self.lengths) + ahead)

    @property
    def key_positions(self) -> Tensor:
        held = torch.arange(self.first, self.end, device=self.ids.device)
        return self.cached("key_positions", lambda: self._per_row(self.shifts) + held)

    @property
    def first_key_position(self) -> Tensor | int:
        return self.cached("oldest", lambda: self._per_row(self.shifts + self.lows))

    def rotary_angles(self, frequencies: Tensor) -> Tensor:
        """In float64: a million tokens on, a float32 angle is wrong by 0.06 radians."""
        return self.positions.double()[..., None] * frequencies.double()

    @property
    def key_document_ids(self) -> Tensor:
        return self.cached("key_documents", self._key_documents)

    def _key_documents(self) -> Tensor:
        """Numbered within what is held; what no longer counts is a document of its own, before all others."""
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
        """(b, T): the columns from each row's `start` on; for what pads it is any, below `end`."""
        columns = start[:, None] + torch.arange(self.ids.shape[1])
        return columns.clamp_max(end - 1).to(self.ids.device)

    def update_kv(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        key = (id(part), self.visit)
        return self._recall((key, "k"), k), self._recall((key, "v"), v)

    def _recall(self, key: Any, new: Tensor) -> Tensor:
        """Keep (b, T, …) and return all that is held, (b, S, …)."""
        buffer = self.cache.buffer(key, new)
        buffer[self.slots] = new[self.valid]
        return new if self.is_prefill else buffer[self.rows, self.first : self.end]

    def token_shift(self, part: nn.Module, x: Tensor) -> Tensor:
        run = torch.cat([self._last((id(part), self.visit, "last"), x), x], 1)
        self._store_state((id(part), self.visit, "last"), run)
        return run[:, :-1]

    def cumsum(self, part: nn.Module, x: Tensor) -> Tensor:
        total = torch.cat([self._last((id(part), self.visit, "sum"), x), x], 1).cumsum(1)
        self._store_state((id(part), self.visit, "sum"), total)
        return total[:, 1:]

    def _last(self, key: Any, x: Tensor) -> Tensor:
        return self.cache.state_for(key, x)[self.rows]

    def _store_state(self, key: Any, run: Tensor) -> None:
        """Of (b, 1 + T, …), what was carried here and what came to it: each row's own last one is carried on."""
        rows = torch.arange(len(run), device=run.device)
        self.cache.recurrent_state[key][self.rows] = run[rows, self.counts.to(run.device)][:, None]

    def attention_mask(self, parts: Any) -> tuple[Tensor | None, bool]:
        if not parts and self.is_prefill:
            return None, True
        return self.cached(("mask", tuple(map(id, parts))), lambda: self._combined_mask(parts)), False

    def _combined_mask(self, parts: Any) -> Tensor:
        mask = super()._combined_mask(parts)
        return mask if self.aligned else mask & (self.key_positions >= self.first_key_position)[:, None, None]


@torch.no_grad()
def decode(model: LM, memory: KVCache, ids: Tensor, rows: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """Read on in these rows of a memory, all of them where None: the model's last state, (b, T, D).

    ids: (b, T); `counts` (b,) on the CPU, its largest is T: so many of a row are tokens, the others pad, and what is
    said there means nothing. The caller sees to it that they fit.
    """
    context = DecodingContext(ids, model.bos, memory, rows, counts)
    hidden = model.hidden(context)
    context.commit()
    return hidden
