"""Execution of a training step: the function that computes the loss, and the size of micro-batches.

The plan affects speed and memory, not the result. `train.setup` makes it before the training clock starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from bitgolf.model.attention.cores.segment_capacity import SegmentCapacityManager
from bitgolf.training.activation_memory import largest_micro_batch

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(ids, targets), int64 (B, T) each -> mean loss in nats per token, a scalar."""


class ExecutionPlan(NamedTuple):
    """How a trainer executes each step.

    compute_loss: the loss module itself, or a compiled graph of it.
    micro_rows: largest number of rows of a micro-batch (`train.micro_rows`); 0 is no limit.
    max_micro_tokens: largest number of tokens of a micro-batch that fits the memory of the device.
    segment_buffers: keeps the capacity of attention kernels at the number of document segments in a batch; None until
    kernels have been selected.
    """

    compute_loss: LossFunction
    micro_rows: int = 0
    max_micro_tokens: float = math.inf
    segment_buffers: SegmentCapacityManager | None = None

    def micro_batch_rows(self, count: int, length: int) -> int:
        """Rows per micro-batch, for a batch of `count` rows of `length` tokens.

        `micro_rows` (at most `count`) if that fits the memory, otherwise the largest divisor of `count` that does.
        """
        rows = min(self.micro_rows or count, count)
        return (
            rows
            if rows * length <= self.max_micro_tokens
            else largest_micro_batch(count, length, self.max_micro_tokens)
        )
