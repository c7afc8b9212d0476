"""The forward of rows that have adapters of their own: which rows are read, at which shapes, and with which kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.batched_lora import BatchedLoRA
from bitgolf.model.lm import LM
from bitgolf.model.numerics import at_least_float32
from bitgolf.model.parameters import set_requires_grad
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.compiled_function import CompiledFunction
from bitgolf.score.execution.forward import SelectKernels, padded_length
from bitgolf.score.player import ScoringBatch


class AdapterBatch(NamedTuple):
    """What is read of a block, on the CPU.

    rows: (R,) bool, those of all rows that tokens (b, T) holds, b of them. columns: (b, C), where in its row each row is
    asked, any where it is asked less often than C times. places: (n,), which of the b C columns count, row by row.
    """

    rows: Tensor
    tokens: Tensor
    target_columns: Tensor
    target_indices: Tensor

    @classmethod
    def from_batch(cls, block: ScoringBatch, rows: Tensor, columns: int) -> AdapterBatch:
        """These rows of a block; the head's adapters know rows, so each row gets as many columns as any has."""
        asked = block.target_mask[rows]
        first, counts = asked.int().argmax(1), asked.sum(1)  # a row is asked at the end of its window
        ahead = torch.arange(columns)
        places = (ahead < counts[:, None]).flatten().nonzero()[:, 0]
        return cls(rows, block.tokens[rows], (first[:, None] + ahead).clamp(max=asked.shape[1] - 1), places)


class AdapterForward:
    """From a block to logits where it asks, with a graph back to the adapters if gradients are on.

    Eager, all rows that are asked for something at once, at the shapes that come: the reference.
    """

    kernels: Sequence[str] = ()

    def __init__(self, model: LM, device: Device, adapters: BatchedLoRA) -> None:
        self.model, self.device, self.adapters = model, device, adapters
        self.run: Callable[[Tensor, Tensor], Tensor] = self.logits

    def microbatches(self, block: ScoringBatch) -> list[AdapterBatch]:
        """What is read at once, row after row."""
        return [AdapterBatch.from_batch(block, block.target_mask.any(1), int(block.target_mask.sum(1).max()))]

    def __call__(self, shown: AdapterBatch) -> Tensor:
        """Logits (n, V) of a piece's places."""
        rows, *parts = shown
        tokens, columns, places = (copy_to_device(x, self.device.torch_device) for x in parts)
        with (
            set_requires_grad(self.model.parameters(), False),  # its own are constants of the graph
            self.adapters.restrict_rows(rows),
            self.device.autocast(),
        ):
            return self.run(tokens, columns).flatten(0, 1)[places]

    def logits(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Tokens (b, T) and columns (b, C): logits (b, C, V)."""
        hidden = self.model.hidden(self.model.forward_context(tokens))
        hidden = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))
        return at_least_float32(self.model.logits(hidden))

    def set_max_tokens(self, tokens: int) -> None:
        """On the CPU memory is a matter of the method's rows."""

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        return 0.0

    def close(self) -> None:
        """The model as it was found."""


class CompiledAdapterForward(AdapterForward):
    """A fixed number of rows at once, at four lengths and with one number of columns: a graph for each length.

    Lengths are the window, a half, a quarter and an eighth of it. Rows without a text are read with the others of their
    piece, a piece without any text is not. Forward and backward are a graph each.
    """

    MAX_HALVINGS = 3

    def __init__(
        self,
        model: LM,
        device: Device,
        adapters: BatchedLoRA,
        *,
        window: int,
        columns: int,
        distributed: DistributedContext,
        kernels: SelectKernels | None = None,
    ) -> None:
        super().__init__(model, device, adapters)
        with adapters.restrict_rows(torch.arange(adapters.rows) == 0):  # kernels are tried on a single row
            self.choice = kernels(model, device, window, backward=True, distributed=distributed) if kernels else None
        self.kernels = self.choice.summary if self.choice else ()
        self.window, self.columns, self.rows = window, columns, adapters.rows
        self.run = self.graph = CompiledFunction(self.logits, device.torch_device)

    def microbatches(self, block: ScoringBatch) -> list[AdapterBatch]:
        number = torch.arange(len(block.tokens)) // self.rows
        chosen = [number == i for i in range(-(-len(number) // self.rows))]
        return [
            self._padded(AdapterBatch.from_batch(block, rows, self.columns))
            for rows in chosen
            if block.target_mask[rows].any()
        ]

    def _padded(self, shown: AdapterBatch) -> AdapterBatch:
        shortest = -(-self.window >> self.MAX_HALVINGS)
        length = padded_length(max(shown.tokens.shape[1], shortest), self.window)
        shown = shown._replace(tokens=F.pad(shown.tokens, (0, length - shown.tokens.shape[1])))
        if self.choice:
            self.choice.segment_capacity.ensure(shown.tokens.numpy())
        return shown

    def set_max_tokens(self, tokens: int) -> None:
        self.rows = min(self.adapters.rows, max(1, tokens // self.window))

    @property
    def compile_seconds(self) -> float:
        return self.graph.compile_seconds

    def close(self) -> None:
        if self.choice:
            self.choice.restore()
