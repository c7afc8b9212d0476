"""What calibration knows of a matrix: the inputs that it multiplies and how much its outputs matter.

An error E (R, C) in the matrix costs about `½ Σ_i outputs_i (E H Eᵀ)_ii` nats per token: the Fisher information of its
outputs and inputs, taken as independent and the outputs as uncorrelated (K-FAC, arXiv 1503.05671, with a diagonal side).
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.quantize.codecs.gptq import GPTQ, InverseCholesky


class FactorCache:
    """The factors of one Hessian by the solver's settings. Matrices that share the Hessian (q, k, v) share the cache."""

    def __init__(self, hessian: Tensor) -> None:
        self.hessian = hessian
        self._lock, self._found = Lock(), dict[tuple[float, str], InverseCholesky]()

    def get(self, solver: GPTQ) -> InverseCholesky:
        key = solver.damping, solver.order
        with self._lock:
            if key not in self._found:
                self._found[key] = solver.factorize(self.hessian)
            return self._found[key]


class MatrixStats(NamedTuple):
    """Means over the tokens of the calibration, float32. `hessian` (C, C): input times input.

    `output_fisher` (R,): squared gradient of the loss (nats, summed over the sequence) by output. A matrix that is used
    more than once in a pass (a loop, a tied head) has the sum over its uses.
    cache: remembers the Hessian's factors; None computes them anew each time.
    """

    hessian: Tensor
    output_fisher: Tensor
    tokens: int
    cache: FactorCache | None = None

    def factorize(self, solver: GPTQ) -> InverseCholesky:
        """The Hessian as the solver uses it, from the cache if that one is of this Hessian."""
        known = self.cache is not None and self.cache.hessian is self.hessian
        return self.cache.get(solver) if self.cache and known else solver.factorize(self.hessian)

    def cost(self, error: Tensor) -> Tensor:
        """(R,) nats per token that this error (R, C) costs, row by row."""
        error = error.float().to(self.hessian.device)
        return 0.5 * self.output_fisher * ((error @ self.hessian) * error).sum(1)


StatsByPath = Mapping[str, MatrixStats]
"""path -> what is known of its matrix; paths of matrices only."""


def identity_stats(rows: int, columns: int) -> MatrixStats:
    """Statistics that prefer nothing: what a codec takes that asks for none."""
    return MatrixStats(torch.eye(columns), torch.ones(rows), 0)
