"""Reading a text piece by piece: a memory of keys and values, so that one model definition also decodes.

Contexts are those of sliding windows: when a memory is full, the last `window - stride` tokens are read again into an
empty one. So a token is predicted from what the plain sliding window would show it, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.model.core import Bus
from bitgolf.model.skeleton import LM


class Memory:
    """Tokens, keys and values read so far, for B lanes, in buffers of `capacity` positions."""

    def __init__(self, lanes: int, capacity: int, device: torch.device) -> None:
        self.capacity, self.length = capacity, 0
        self.ids = torch.zeros(lanes, capacity, dtype=torch.int64, device=device)
        self.buffers: dict[Any, Tensor] = {}
        self.carried: dict[Any, Tensor] = {}  # one position's worth: what came last, or a running sum

    def keep(self, key: Any, new: Tensor) -> Tensor:
        """Append (B, n, …) behind what is there under `key`; returns all of it. The length moves when the ids do."""
        buffer = self.buffers.get(key)
        if buffer is None:
            buffer = self.buffers[key] = new.new_zeros((new.shape[0], self.capacity, *new.shape[2:]))
        end = self.length + new.shape[1]
        buffer[:, self.length : end] = new
        return buffer[:, :end]


class StreamingBus(Bus):
    """A bus that continues a memory: positions go on, keys and values of the past are recalled."""

    def __init__(self, ids: Tensor, bos: int, memory: Memory) -> None:
        super().__init__(ids, bos)
        self.memory = memory
        self.first, self.end = memory.length, memory.length + ids.shape[1]
        memory.ids[:, self.first : self.end] = ids

    @property
    def positions(self) -> Tensor:
        return self.memo("positions", lambda: torch.arange(self.first, self.end, device=self.ids.device))

    @property
    def key_positions(self) -> Tensor:
        return self.memo("key_positions", lambda: torch.arange(self.end, device=self.ids.device))

    @property
    def key_documents(self) -> Tensor:
        return self.memo("key_documents", lambda: (self.memory.ids[:, : self.end] == self.bos).cumsum(1))

    @property
    def documents(self) -> Tensor:
        return self.key_documents[:, self.first :]

    def recall(self, part: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        key = (id(part), self.visit)
        return self.memory.keep((key, "k"), k), self.memory.keep((key, "v"), v)

    def earlier_ids(self, n: int) -> Tensor:
        return F.pad(self.memory.ids[:, : self.end], (n, 0), value=-1)[:, self.first : self.end]

    def previous(self, part: nn.Module, x: Tensor) -> Tensor:
        key = (id(part), self.visit, "last")
        before = self.memory.carried.get(key, torch.zeros_like(x[:, :1]))
        self.memory.carried[key] = x[:, -1:]
        return torch.cat([before, x[:, :-1]], 1)

    def running_sum(self, part: nn.Module, x: Tensor) -> Tensor:
        key = (id(part), self.visit, "sum")
        total = x.cumsum(1) + self.memory.carried.get(key, torch.zeros_like(x[:, :1]))
        self.memory.carried[key] = total[:, -1:]
        return total

    def masks(self, parts: Any) -> tuple[Tensor | None, bool]:
        if not parts and self.first == 0:
            return None, True
        return self.memo(("mask", tuple(map(id, parts))), lambda: self._mask(parts)), False


class Reader:
    """Reads B lanes token by token and predicts the next one of each."""

    def __init__(self, model: LM, lanes: int, window: int, stride: int) -> None:
        self.model, self.window, self.stride = model.eval(), window, stride
        self.device = next(model.parameters()).device
        self.memory = Memory(lanes, window, self.device)
        self.logits = self._read(torch.full((lanes, 1), model.bos, device=self.device))

    @torch.no_grad()
    def _read(self, ids: Tensor) -> Tensor:
        hidden = self.model.hidden(StreamingBus(ids, self.model.bos, self.memory))
        self.memory.length += ids.shape[1]
        return self.model.logits(hidden[:, -1:])[:, -1].float()

    def push(self, tokens: Tensor) -> None:
        """The tokens that came, (B,); afterwards `logits` (B, V) are those of the next."""
        if self.memory.length == self.window:
            recent = self.memory.ids[:, self.stride :].clone()
            self.memory = Memory(len(recent), self.window, self.device)
            if recent.shape[1]:
                self._read(recent)
        self.logits = self._read(tokens[:, None].to(self.device))
