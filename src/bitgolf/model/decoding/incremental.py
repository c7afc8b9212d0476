"""Reading texts piece by piece: a memory of keys and values, so that one model definition also decodes.

Rows are texts side by side. Each has a length of its own, and of it depends nothing that another row says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitgolf.errors import UsageError
from bitgolf.model.forward_context import Bus
from bitgolf.model.lm import LM

EARLIER = 8  # tokens before the oldest that counts, which parts that read n-grams may still ask for


class Memory:
    """Tokens, keys and values of B rows, in buffers of `capacity` slots; a row's tokens stand in a run of slots.

    For each row, (B,) int64, on the CPU as they steer what is run: `lengths`, the first slot that is free; `lows`, the
    oldest slot that counts; `shifts`, the position in the row's text of its slot 0.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.lengths, self.lows, self.shifts = torch.zeros(3, rows, dtype=torch.int64)
        self.ids = torch.zeros(rows, capacity, dtype=torch.int64, device=device)
        self.buffers: dict[Any, Tensor] = {}
        self.carried: dict[Any, Tensor] = {}  # (B, 1, …), one position's worth: what came last, or a running sum

    def buffer(self, key: Any, like: Tensor) -> Tensor:
        """(B, capacity, …) of the kind of `like` (b, n, …)."""
        if key not in self.buffers:
            self.buffers[key] = like.new_zeros((*self.ids.shape, *like.shape[2:]))
        return self.buffers[key]

    def last(self, key: Any, like: Tensor) -> Tensor:
        """(B, 1, …) of the kind of `like` (b, n, …), zeros where nothing was read."""
        if key not in self.carried:
            self.carried[key] = like.new_zeros((len(self.ids), 1, *like.shape[2:]))
        return self.carried[key]

    def forget(self, rows: Tensor) -> None:
        """These rows, (b,), are as if they had never read. What their slots hold is overwritten before it is seen."""
        for of_rows in (self.lengths, self.lows, self.shifts):
            of_rows[rows] = 0
        for value in self.carried.values():
            value[rows.to(value.device)] = 0

    def slide(self, rows: Tensor, counts: Tensor, window: int) -> None:
        """Make room for `counts` more tokens in these rows, (b,): of what they held, all that would leave a window of so
        many tokens counts no more. It is moved out where slots run out: so a capacity above the window saves moves.
        """
        lengths = self.lengths[rows]
        ends = lengths + counts
        self.lows[rows] = torch.maximum(self.lows[rows], torch.minimum(ends - window, lengths))
        crowded = rows[ends > self.capacity]
        spare = (self.lows[crowded] - EARLIER).clamp_min(0)
        for slots in spare.unique().tolist():
            self._drop(crowded[spare == slots], slots)

    def _drop(self, rows: Tensor, slots: int) -> None:
        """Move these rows so many slots to the front."""
        held = int(self.lengths[rows].max()) - slots
        own = rows.to(self.ids.device)
        for buffer in (self.ids, *self.buffers.values()):
            buffer[own, :held] = buffer[own, slots : slots + held]
        self.lengths[rows] -= slots
        self.lows[rows] -= slots
        self.shifts[rows] += slots


def _same(numbers: Tensor) -> bool:
    return bool((numbers == numbers[0]).all())


class StreamingBus(Bus):
    """A bus that goes on where a memory stands: positions continue, keys and values of the past are recalled.

    ids: (b, T) for these `rows` of the memory (b,), all of them where None; `counts` (b,) says how many of a row's ids
    are tokens, the others pad: they are not remembered and no token sees them. Raises nothing: see `read`.
    """

    whole = False

    def __init__(
        self, ids: Tensor, bos: int, memory: Memory, rows: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        super().__init__(ids, bos)
        height, width = ids.shape
        self.memory = memory
        self.rows = slice(None) if rows is None else rows.to(ids.device)
        self.at = slice(None) if rows is None else rows
        self.lengths, self.lows, self.shifts = memory.lengths[self.at], memory.lows[self.at], memory.shifts[self.at]
        self.counts = torch.full((height,), width) if counts is None else counts
        self.level = all(_same(x) for x in (self.lengths, self.lows, self.shifts))  # one set of positions for all rows
        self.first, self.end = int(self.lows.min()), int((self.lengths + self.counts).max())
        self.opens = self.level and int(self.lengths[0]) == 0
        self.live, self.slots = self._places(rows)
        memory.ids[self.slots] = ids[self.live]

    def _places(self, rows: Tensor | None) -> tuple[Any, Any]:
        """Which of the ids are tokens, and the slots they go to: two indices of like shape."""
        height, width = self.ids.shape
        if rows is None and self.level and bool((self.counts == width).all()):
            return ..., (slice(None), slice(int(self.lengths[0]), int(self.lengths[0]) + width))
        row, place = (torch.arange(width) < self.counts[:, None]).nonzero(as_tuple=True)
        own = torch.arange(height)[row] if rows is None else rows[row]
        live, slots = (row, place), (own, self.lengths[row] + place)
        return tuple(i.to(self.ids.device) for i in live), tuple(i.to(self.ids.device) for i in slots)

    def _each(self, of_rows: Tensor) -> Tensor:
        """A number for each row as it adds to positions: one for all, (1,), or (b, 1)."""
        return (of_rows[:1] if self.level else of_rows[:, None]).to(self.ids.device)

    def close(self) -> None:
        """The forward is over: its tokens are the memory's."""
        self.memory.lengths[self.at] += self.counts

    @property
    def positions(self) -> Tensor:
        ahead = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.memo("positions", lambda: self._each(self.shifts + self.lengths) + ahead)

    @property
    def key_positions(self) -> Tensor:
        held = torch.arange(self.first, self.end, device=self.ids.device)
        return self.memo("key_positions", lambda: self._each(self.shifts) + held)

    @property
    def oldest(self) -> Tensor | int:
        return self.memo("oldest", lambda: self._each(self.shifts + self.lows))

    def angles(self, frequencies: Tensor) -> Tensor:
        """In float64: a million tokens on, a float32 angle is wrong by 0.06 radians."""
        return self.positions.double()[..., None] * frequencies.double()

    @property
    def key_documents(self) -> Tensor:
        return self.memo("key_documents", self._key_documents)

    def _key_documents(self) -> Tensor:
        """Numbered within what is held; what no longer counts is a document of its own, before all others."""
        documents = (self.memory.ids[self.rows, self.first : self.end] == self.bos).cumsum(1)
        return documents.masked_fill(self.key_positions < self.oldest, -1)

    @property
    def documents(self) -> Tensor:
        return self.memo("documents", lambda: self.own(self.key_documents))

    def own(self, of_keys: Tensor) -> Tensor:
        return of_keys.gather(1, self._ahead(self.lengths - self.first, of_keys.shape[1]))

    def earlier_ids(self, n: int) -> Tensor:
        ids = self.memory.ids[self.rows, : self.end]
        return F.pad(ids, (n, 0), value=-1).gather(1, self._ahead(self.lengths, self.end))

    def _ahead(self, start: Tensor, end: int) -> Tensor:
        """(b, T): the columns from each row's `start` on; for what pads it is any, below `end`."""
        columns = start[:, None] + torch.arange(self.ids.shape[1])
        return columns.clamp_max(end - 1).to(self.ids.device)

    def recall(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        key = (id(part), self.visit)
        return self._recall((key, "k"), k), self._recall((key, "v"), v)

    def _recall(self, key: Any, new: Tensor) -> Tensor:
        """Keep (b, T, …) and return all that is held, (b, S, …)."""
        buffer = self.memory.buffer(key, new)
        buffer[self.slots] = new[self.live]
        return new if self.opens else buffer[self.rows, self.first : self.end]

    def previous(self, part: nn.Module, x: Tensor) -> Tensor:
        run = torch.cat([self._last((id(part), self.visit, "last"), x), x], 1)
        self._carry((id(part), self.visit, "last"), run)
        return run[:, :-1]

    def running_sum(self, part: nn.Module, x: Tensor) -> Tensor:
        total = torch.cat([self._last((id(part), self.visit, "sum"), x), x], 1).cumsum(1)
        self._carry((id(part), self.visit, "sum"), total)
        return total[:, 1:]

    def _last(self, key: Any, x: Tensor) -> Tensor:
        return self.memory.last(key, x)[self.rows]

    def _carry(self, key: Any, run: Tensor) -> None:
        """Of (b, 1 + T, …), what was carried here and what came to it: each row's own last one is carried on."""
        rows = torch.arange(len(run), device=run.device)
        self.memory.carried[key][self.rows] = run[rows, self.counts.to(run.device)][:, None]

    def masks(self, parts: Any) -> tuple[Tensor | None, bool]:
        if not parts and self.opens:
            return None, True
        return self.memo(("mask", tuple(map(id, parts))), lambda: self._mask(parts)), False

    def _mask(self, parts: Any) -> Tensor:
        mask = super()._mask(parts)
        return mask if self.level else mask & (self.key_positions >= self.oldest)[:, None, None]


@torch.no_grad()
def read(model: LM, memory: Memory, ids: Tensor, rows: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """Read on in these rows of a memory, all of them where None: the model's last state, (b, T, D).

    ids: (b, T); `counts` (b,) on the CPU, its largest is T: so many of a row are tokens, the others pad, and what is
    said there means nothing. The caller sees to it that they fit.
    """
    bus = StreamingBus(ids, model.bos, memory, rows, counts)
    hidden = model.hidden(bus)
    bus.close()
    return hidden


class Reader:
    """Reads B texts token by token and predicts the next one of each: `logits`, (B, V) in float32.

    Contexts are those of sliding windows: where a row is full, its last `window - stride` tokens are read again. So a
    token is predicted from what the plain sliding window would show it, up to rounding.
    """

    logits: Tensor

    def __init__(self, model: LM, rows: int, window: int, stride: int) -> None:
        """Every row has read BOS."""
        self.model, self.window, self.stride = model.eval(), window, stride
        self.device = next(model.parameters()).device
        self.memory = Memory(rows, window, self.device)
        self.restart(dict.fromkeys(range(rows), torch.tensor([model.bos])))

    def restart(self, contexts: Mapping[int, Tensor]) -> None:
        """These rows forget everything and read their context, (n,) with 1 <= n <= window, all in one forward."""
        for row, context in contexts.items():
            if not 1 <= len(context) <= self.window:
                raise UsageError(
                    f"a context of {len(context)} tokens for a window of {self.window}", place=f"row {row}"
                )
        rows = torch.tensor(sorted(contexts))
        said = self._said(*self._again(rows, [contexts[row] for row in sorted(contexts)]))
        whole = len(rows) == len(self.memory.ids)
        self.logits = said if whole else self.logits.index_copy(0, rows.to(self.device), said)

    def push(self, tokens: Tensor) -> None:
        """A token for each row, (B,), -1 where there is none; afterwards `logits` are those of the next."""
        tokens = tokens.cpu()
        live = tokens >= 0
        full = (live & (self.memory.lengths == self.window)).nonzero()[:, 0]
        if len(full) and self.stride < self.window:
            self._again(full, list(self.memory.ids[full.to(self.device), self.stride :]))
        elif len(full):
            self.memory.forget(full)
        if live.any():
            ids, counts = tokens.clamp_min(0)[:, None].to(self.device), live.long()
            said = self._said(read(self.model, self.memory, ids, counts=counts), counts)
            self.logits = torch.where(live[:, None].to(self.device), said, self.logits)

    def _again(self, rows: Tensor, contexts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows that forget and read: their last states (b, T, D), and how many of each are tokens (b,)."""
        self.memory.forget(rows)
        counts = torch.tensor([len(context) for context in contexts])
        ids = pad_sequence(contexts, batch_first=True).to(self.device)
        own = None if len(rows) == len(self.memory.ids) else rows
        return read(self.model, self.memory, ids, own, counts), counts

    @torch.no_grad()
    def _said(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """Logits after the last token of each row, (b, V)."""
        rows = torch.arange(len(hidden))
        last = hidden[rows.to(self.device), (counts - 1).clamp_min(0).to(self.device)]
        return self.model.logits(last[:, None])[:, 0].float()
