"""How a training step is executed: which graph computes the loss, and how many rows pass through it at a time.

The plan changes speed and memory, not what is computed. `train.setup` makes it before the training clock starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from bitgolf.model.attention.cores.segment_capacity import SegmentCapacityManager
from bitgolf.train.activation_memory import largest_micro_batch

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(ids, targets), int64 (B, T) each -> mean loss in nats per token, a scalar."""


class ExecutionPlan(NamedTuple):
    """What a trainer runs in each step.

    compute_loss: the loss module itself, or a compiled graph of it.
    micro_rows: the most rows of a micro-batch by the settings; 0 is no limit.
    max_micro_tokens: the most tokens of a micro-batch by the device's memory.
    segment_buffers: grow with the number of document segments in a batch; None where no attention kernel needs them.
    """

    compute_loss: LossFunction
    micro_rows: int = 0
    max_micro_tokens: float = math.inf
    segment_buffers: SegmentCapacityManager | None = None

    def micro_batch_rows(self, count: int, length: int) -> int:
        """How many of `count` rows of `length` tokens pass through the model at a time.

        `micro_rows`, or the largest divisor of `count` that fits the memory where that many do not.
        """
        rows = min(self.micro_rows or count, count)
        return (
            rows
            if rows * length <= self.max_micro_tokens
            else largest_micro_batch(count, length, self.max_micro_tokens)
        )
