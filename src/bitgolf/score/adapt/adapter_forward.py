"""The forward of a model in which each row has its own adapters: eager, or compiled for a few shapes."""

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
    """Input of one forward, on the CPU: b of the R rows of a scoring batch.

    rows: (R,) bool, the selected rows. tokens: (b, T).
    target_columns: (b, C), positions of the targets in each row; arbitrary positions if a row has fewer than C targets.
    target_indices: (n,), indices of the actual targets in the flattened `target_columns`, row by row.
    """

    rows: Tensor
    tokens: Tensor
    target_columns: Tensor
    target_indices: Tensor

    @classmethod
    def from_batch(cls, block: ScoringBatch, rows: Tensor, columns: int) -> AdapterBatch:
        """Select rows of a batch. All get the same number of columns, since adapters of the head work on rows."""
        target_mask = block.target_mask[rows]
        first, counts = target_mask.int().argmax(1), target_mask.sum(1)  # targets are at the end of a window
        offsets = torch.arange(columns)
        indices = (offsets < counts[:, None]).flatten().nonzero()[:, 0]
        return cls(rows, block.tokens[rows], (first[:, None] + offsets).clamp(max=target_mask.shape[1] - 1), indices)


class AdapterForward:
    """Logits at the targets of a batch, with the graph of the adapters if gradients are enabled.

    This is the eager reference: one forward of all rows that have targets, without padding.
    """

    kernels: Sequence[str] = ()

    def __init__(self, model: LM, device: Device, adapters: BatchedLoRA) -> None:
        self.model, self.device, self.adapters = model, device, adapters
        self.run: Callable[[Tensor, Tensor], Tensor] = self.logits

    def microbatches(self, block: ScoringBatch) -> list[AdapterBatch]:
        """Split a batch into the inputs of its forwards, in the order of rows."""
        return [AdapterBatch.from_batch(block, block.target_mask.any(1), int(block.target_mask.sum(1).max()))]

    def __call__(self, batch: AdapterBatch) -> Tensor:
        """Logits (n, V) at the targets of one input."""
        rows, *inputs = batch
        tokens, columns, places = (copy_to_device(x, self.device.torch_device) for x in inputs)
        with (
            set_requires_grad(self.model.parameters(), False),  # only adapters get gradients
            self.adapters.restrict_rows(rows),
            self.device.autocast(),
        ):
            return self.run(tokens, columns).flatten(0, 1)[places]

    def logits(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Logits (b, C, V) at `columns` (b, C) of `tokens` (b, T)."""
        hidden = self.model.hidden(self.model.forward_context(tokens))
        hidden = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))
        return at_least_float32(self.model.logits(hidden))

    def set_max_tokens(self, tokens: int) -> None:
        """No effect: on the CPU the method's number of rows determines memory."""

    @property
    def compile_seconds(self) -> float:
        """Seconds spent on compilation so far."""
        return 0.0

    def close(self) -> None:
        """Restore the model. Nothing to restore here."""


class CompiledAdapterForward(AdapterForward):
    """A compiled forward with a fixed number of rows, four lengths and a fixed number of columns.

    Lengths are the window, a half, a quarter and an eighth of it; each has a forward and a backward graph. Rows without
    a text are computed with the others of their micro batch; a micro batch without any text is skipped.
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
        with adapters.restrict_rows(torch.arange(adapters.rows) == 0):  # kernels are timed on a single row
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

    def _padded(self, batch: AdapterBatch) -> AdapterBatch:
        shortest = -(-self.window >> self.MAX_HALVINGS)
        length = padded_length(max(batch.tokens.shape[1], shortest), self.window)
        batch = batch._replace(tokens=F.pad(batch.tokens, (0, length - batch.tokens.shape[1])))
        if self.choice:
            self.choice.segment_capacity.ensure(batch.tokens.numpy())
        return batch

    def set_max_tokens(self, tokens: int) -> None:
        self.rows = min(self.adapters.rows, max(1, tokens // self.window))

    @property
    def compile_seconds(self) -> float:
        return self.graph.compile_seconds

    def close(self) -> None:
        if self.choice:
            self.choice.restore()
