"""Calibration statistics of a weight matrix: the Hessian of its inputs and the Fisher information of its outputs.

An error E (R, C) in the matrix raises the loss by about `½ Σ_i output_fisher_i (E H Eᵀ)_ii` nats per token. This is
K-FAC (arXiv 1503.05671) with a diagonal output factor: inputs and output gradients are treated as independent, and the
gradients of different outputs as uncorrelated.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
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
    row_hessians: (G, C, C), the Hessian of each group of rows (`group_slices`), if calibration measured several.
    output_hessian: (R, R), the Hessian of the outputs, if calibration measured it: an error E then costs
    ½ tr(output_hessian E hessian Eᵀ).
    """

    hessian: Tensor
    output_fisher: Tensor
    tokens: int
    cache: FactorCache | None = None
    row_hessians: Tensor | None = None
    output_hessian: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are present, by name."""
        found = {name: getattr(self, name) for name in ("hessian", "output_fisher", "row_hessians", "output_hessian")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def factorize(self, solver: GPTQ) -> InverseCholesky:
        """The inverse Cholesky factor of the Hessian. The cache is used only if it belongs to this very tensor."""
        cached = self.cache is not None and self.cache.hessian is self.hessian
        return self.cache.get(solver) if self.cache and cached else solver.factorize(self.hessian)

    def cost(self, error: Tensor) -> Tensor:
        """(R,) predicted increase of the loss in nats per token, by row, for an error (R, C) in the matrix."""
        error = error.float().to(self.hessian.device)
        if self.row_hessians is not None:
            groups = group_slices(len(error), len(self.row_hessians))
            products = [error[rows] @ h for rows, h in zip(groups, self.row_hessians, strict=True)]
            return 0.5 * self.output_fisher * (torch.cat(products) * error).sum(1)
        product = error @ self.hessian
        if self.output_hessian is not None:
            return 0.5 * ((self.output_hessian @ product) * error).sum(1)
        return 0.5 * self.output_fisher * (product * error).sum(1)


def group_slices(rows: int, groups: int) -> list[slice]:
    """Slices of at most `groups` groups of consecutive rows, whose numbers of rows differ by at most one."""
    groups = min(groups, rows)
    ends = [rows * k // groups for k in range(groups + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


StatsByPath = Mapping[str, MatrixStats]
"""Path of a matrix -> its statistics."""


def identity_stats(rows: int, columns: int) -> MatrixStats:
    """Statistics for codecs that run without calibration: identity Hessian, unit Fisher information, 0 tokens."""
    return MatrixStats(torch.eye(columns), torch.ones(rows), 0)
