"""One step of incremental decoding in buffers of fixed sizes: what a recording needs, since its shapes must not change.

`model.decoding.DecodingContext` continues several texts of any lengths, and reads the lengths in Python. This context
has one text and one new token, and its position is a tensor; both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitgolf.model.forward_context import ForwardContext

Variable = Callable[[Any, tuple[int, ...], torch.dtype], Tensor]
"""(key, shape, type) -> the tensor that keeps a state from one step to the next, initially zero; one for each key."""


class StepContext(ForwardContext):
    """Forward context of one new token of a text of at most `window` tokens, in slots 0, 1, … of the buffers.

    ids: (1, 1).  position: int64 (1,), the slot of the token.  variable: where the buffers come from.
    Slots after `position` have values of earlier texts or zeros; no token attends to them.
    """

    full_sequence = False

    def __init__(self, ids: Tensor, bos: int, position: Tensor, window: int, variable: Variable) -> None:
        super().__init__(ids, bos)
        self.position, self.window, self.variable = position, window, variable
        self.history = variable("history", (1, window), torch.int64)
        self.history.index_copy_(1, position, ids)

    @property
    def positions(self) -> Tensor:
        return self.position

    @property
    def key_positions(self) -> Tensor:
        return self.cached("key_positions", lambda: torch.arange(self.window))

    def rotary_angles(self, frequencies: Tensor) -> Tensor:
        """Positions times frequencies, in float64 as in `DecodingContext`."""
        return self.positions.double()[..., None] * frequencies.double()

    @property
    def key_document_ids(self) -> Tensor:
        return self.cached("key_documents", lambda: (self.history == self.bos).cumsum(1))

    @property
    def document_ids(self) -> Tensor:
        return self.cached("documents", lambda: self.at_queries(self.key_document_ids))

    def at_queries(self, of_keys: Tensor) -> Tensor:
        return of_keys.index_select(1, self.position)

    def previous_ids(self, n: int) -> Tensor:
        earlier = self.history.index_select(1, (self.position - n).clamp_min(0))
        return earlier.masked_fill(self.position < n, -1)

    def update_kv(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self._append((id(part), self.visit, "k"), k), self._append((id(part), self.visit, "v"), v)

    def _append(self, key: Any, new: Tensor) -> Tensor:
        """Store (1, 1, …) in its slot; returns the whole buffer, (1, window, …)."""
        buffer = self.variable(key, (1, self.window, *new.shape[2:]), new.dtype)
        return buffer.index_copy_(1, self.position, new)

    def token_shift(self, part: nn.Module, x: Tensor, steps: int = 1) -> Tensor:
        for step in range(steps):
            state = self.variable((id(part), self.visit, "last", steps, step), tuple(x.shape), x.dtype)
            before = state.clone()
            state.copy_(x)
            x = before
        return x

    def cumsum(self, part: nn.Module, x: Tensor) -> Tensor:
        total = self.variable((id(part), self.visit, "sum"), tuple(x.shape), x.dtype)
        return total.add_(x).clone()

    def attention_mask(self, parts: Any) -> tuple[Tensor, bool]:
        return self.cached(("mask", tuple(map(id, parts))), lambda: self._combined_mask(parts)), False
