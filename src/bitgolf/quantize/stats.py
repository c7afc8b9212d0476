"""Calibration statistics of a weight matrix: the Hessian of its inputs and the Fisher information of its outputs.

An error E (R, C) in the matrix raises the loss by about `½ Σ_i output_fisher_i (E H Eᵀ)_ii` nats per token. This is
K-FAC (arXiv 1503.05671) with a diagonal output factor: inputs and output gradients are treated as independent, and the
gradients of different outputs as uncorrelated.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky


class FactorCache:
    """Inverse Cholesky factors of one Hessian, one for each damping and column order. Thread-safe.

    Matrices that share a Hessian (q, k, v) share its cache.
    """

    def __init__(self, hessian: Tensor) -> None:
        self.hessian = hessian
        self._lock, self._found = Lock(), dict[tuple[float, str], InverseCholesky]()

    def get(self, solver: GPTQ) -> InverseCholesky:
        """The factor for the settings of `solver`, computed at the first call."""
        key = solver.damping, solver.order
        with self._lock:
            if key not in self._found:
                self._found[key] = solver.factorize(self.hessian)
            return self._found[key]


class MatrixStats(NamedTuple):
    """Statistics of a matrix (R, C): float32 means over the calibration tokens.

    hessian: (C, C), the outer product x xᵀ of the inputs.
    output_fisher: (R,), the squared gradient of the loss (nats, summed over the sequence) with respect to each output.
    A matrix that is used more than once in a forward pass (a loop, a tied head) has the sum over its uses.
    tokens: the number of calibration tokens.  cache: factors of the Hessian; None factorizes it at each call.
    """

    hessian: Tensor
    output_fisher: Tensor
    tokens: int
    cache: FactorCache | None = None

    def factorize(self, solver: GPTQ) -> InverseCholesky:
        """The inverse Cholesky factor of the Hessian. The cache is used only if it belongs to this very tensor."""
        cached = self.cache is not None and self.cache.hessian is self.hessian
        return self.cache.get(solver) if self.cache and cached else solver.factorize(self.hessian)

    def cost(self, error: Tensor) -> Tensor:
        """(R,) predicted increase of the loss in nats per token, by row, for an error (R, C) in the matrix."""
        error = error.float().to(self.hessian.device)
        return 0.5 * self.output_fisher * ((error @ self.hessian) * error).sum(1)


StatsByPath = Mapping[str, MatrixStats]
"""Path of a matrix -> its statistics."""


def identity_stats(rows: int, columns: int) -> MatrixStats:
    """Statistics for codecs that run without calibration: identity Hessian, unit Fisher information, 0 tokens."""
    return MatrixStats(torch.eye(columns), torch.ones(rows), 0)
