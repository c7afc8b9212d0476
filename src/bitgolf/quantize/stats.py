"""What calibration knows of a matrix: the inputs that it multiplies and how much its outputs matter.

An error E (R, C) in the matrix costs about `½ Σ_i outputs_i (E H Eᵀ)_ii` nats per token: the Fisher information of its
outputs and inputs, taken as independent and the outputs as uncorrelated (K-FAC, arXiv 1503.05671, with a diagonal side).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Stats(NamedTuple):
    """Means over the tokens of the calibration, float32. `hessian` (C, C): input times input.

    `outputs` (R,): squared gradient of the loss (nats, summed over the sequence) by output. A matrix that is used
    more than once in a pass (a loop, a tied head) has the sum over its uses.
    """

    hessian: Tensor
    outputs: Tensor
    tokens: int

    def cost(self, error: Tensor) -> Tensor:
        """(R,) nats per token that this error (R, C) costs, row by row."""
        error = error.float().to(self.hessian.device)
        return 0.5 * self.outputs * ((error @ self.hessian) * error).sum(1)


Calibration = Mapping[str, Stats]
"""path -> what is known of its matrix; paths of matrices only."""


def flat(rows: int, columns: int) -> Stats:
    """Statistics that prefer nothing: what a codec takes that asks for none."""
    return Stats(torch.eye(columns), torch.ones(rows), 0)
