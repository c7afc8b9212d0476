"""Adam with separate state for each row, since the documents in the rows begin at different steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitgolf.score.execution.async_copy import copy_to_device
from bitgolf.score.execution.compiled_function import CompiledFunction


class PerRowAdam:
    """Adam (arXiv:1412.6980) with decoupled weight decay (arXiv:1711.05101), for each row of `values` separately.

    values: (rows, P). Each row has its own moments (rows, P) and its own number of steps (rows, 1).
    """

    def __init__(
        self, values: Tensor, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self.values, self.lr, self.betas, self.eps, self.weight_decay = values, lr, betas, eps, weight_decay
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = values.new_zeros(len(values), 1)
        self.update: Callable[[Tensor, Tensor], Tensor] = self._update
        if values.is_cuda:  # one kernel instead of 25 operators on tensors of gigabytes
            self.update = CompiledFunction(self._update, values.device)

    def reset(self, rows: Tensor) -> None:
        """Set the moments and steps of the selected rows, bool (rows,) on the CPU, to zero."""
        chosen = copy_to_device(rows.nonzero()[:, 0], self.values.device)
        for state in (self.exp_avg, self.exp_avg_sq, self.steps):
            state[chosen] = 0

    def step(self, grad: Tensor, rows: Tensor) -> None:
        """One step of the selected rows, bool (rows,), with gradients (rows, P). Other rows are unchanged."""
        self.update(grad, rows[:, None].to(grad.dtype))

    def _update(self, grad: Tensor, on: Tensor) -> Tensor:
        """Update in place. on: (rows, 1), 1 for a selected row and 0 for another."""
        b1, b2 = self.betas
        self.steps += on
        taken = self.steps.clamp(min=1)  # avoids a division by zero in rows without a step
        self.exp_avg.mul_(1 - on * (1 - b1)).add_(grad * (on * (1 - b1)))
        self.exp_avg_sq.mul_(1 - on * (1 - b2)).add_(grad.square() * (on * (1 - b2)))
        size = self.exp_avg_sq.sqrt().div_((1 - b2**taken).sqrt()).add_(self.eps)
        self.values.mul_(1 - on * (self.lr * self.weight_decay))
        self.values.sub_(self.exp_avg / size * (on * self.lr / (1 - b1**taken)))
        return self.values
