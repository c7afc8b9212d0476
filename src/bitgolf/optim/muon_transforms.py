"""What may happen to an update of Muon before and after it is orthogonalized, and into which pieces it is cut.

All of it acts on stacks (..., m, n) of matrices, each matrix by itself, and leaves a matrix of zeros as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError


class PreOrthogonalization(ABC):
    """Changes an update before orthogonalization; without a memory."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...


@register
class RowNorm(PreOrthogonalization):
    """MuonEq-R (arXiv 2603.28254; Parameter Golf #1217): each row divided by its length, or by 1e-7 if that is more.

    What a row's gradient is scaled by is then forgotten, as orthogonalization forgets the scale of the whole.
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-7)


@register
class RowRMSNorm(PreOrthogonalization):
    """`NeoMuon` (Parameter Golf #640, with three steps of Newton-Schulz): each row divided by its root mean square.

    That is `RowNorm` times sqrt(n), which orthogonalization forgets, but for torch's epsilon of 1.2e-7 beside the mean
    square: rows much smaller than 3e-4 keep their relative sizes.
    """

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])


class PostOrthogonalization(ABC):
    """Changes an update after orthogonalization, with one tensor of memory for each parameter."""

    @abstractmethod
    def init_state(self, param: Tensor) -> Tensor:
        """The memory before the first step; it has the parameter's leading axes."""

    @abstractmethod
    def __call__(self, x: Tensor, state: Tensor) -> Tensor:
        """The changed update; `state` changes in place."""


@register
class NorMuon(PostOrthogonalization):
    """Rows of even size (arXiv 2510.05491; Parameter Golf #230): o' = o / (sqrt(v) + eps) for each row o of an update.

    v <- beta v + (1 - beta) mean(o^2), from 0, is the row's memory. The result is scaled back to the Frobenius norm that
    the update had, so v needs no correction of its bias. Unlike `RowNorm` this leaves the update no longer orthogonal.
    """

    def __init__(self, *, beta: float = 0.95, eps: float = 1e-8) -> None:
        if not 0 <= beta < 1:
            raise RecipeError(f"a mean forgets at a rate in [0, 1), got {beta}", where="NorMuon.beta")
        self.beta, self.eps = beta, eps

    def init_state(self, param: Tensor) -> Tensor:
        return torch.zeros_like(param[..., :1])

    def __call__(self, x: Tensor, state: Tensor) -> Tensor:
        state.lerp_(x.square().mean(-1, keepdim=True), 1.0 - self.beta)
        even = x / (state.sqrt() + self.eps)
        return even * (_norm(x) / _norm(even).clamp_min(1e-30))


class MatrixSplit(ABC):
    """Cuts a matrix into pieces that are orthogonalized one by one."""

    @abstractmethod
    def unsupported_reason(self, shape: torch.Size) -> str:
        """Why a parameter of this shape cannot be cut; "" where it can."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """(..., m, n) to (..., pieces, rows, n)."""

    @abstractmethod
    def merge(self, pieces: Tensor) -> Tensor:
        """The inverse of `split`."""


@register
class RowBlockSplit(MatrixSplit):
    """Paired heads (Parameter Golf #1512): blocks of so many rows, two heads of 64, are orthogonalized by themselves.

    For query and key matrices only, so it stands in a rule that takes no others. Momentum, row norm and the factor for
    tall matrices are still those of the whole matrix.
    """

    def __init__(self, *, rows: int = 128) -> None:
        if rows < 1:
            raise RecipeError(f"a pair of heads has at least one row, got {rows}", where="RowBlockSplit.rows")
        self.rows = rows

    def unsupported_reason(self, shape: torch.Size) -> str:
        return f"{shape[-2]} rows are not made of blocks of {self.rows}" if shape[-2] % self.rows else ""

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (-1, self.rows))

    def merge(self, pieces: Tensor) -> Tensor:
        return pieces.flatten(-3, -2)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True)
