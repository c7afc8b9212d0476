"""Transforms of Muon's update before and after orthogonalization, and splits of a matrix into blocks.

All act on stacks (..., m, n) of matrices, on each matrix independently, and map a zero matrix to a zero matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.ranges import Epsilon, FractionBelowOne, Width
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError

TransformState = dict[str, Tensor]
"""State of a transform for one parameter, by name. Each tensor has the leading dimensions of the parameter."""


class PreOrthogonalization(ABC):
    """A transform of an update (..., m, n) before orthogonalization. Those without state are functions of the update."""

    def init_state(self, param: Tensor) -> TransformState:
        """Return the state before the first step; empty for a stateless transform."""
        return {}

    @abstractmethod
    def __call__(self, x: Tensor, state: TransformState) -> Tensor:
        """Return the transformed update, and modify `state` in place. A part of the compiled graph of a step."""

    def observe(self, grads: Tensor, state: TransformState, step: int) -> None:  # noqa: B027
        """Modify `state` in place by the gradients (..., m, n) of a step, after the parameter is updated.

        Not compiled, so it may depend on `step`, the number of completed steps before this one. Stateless transforms do
        nothing.
        """


@register
class RowNorm(PreOrthogonalization):
    """MuonEq-R (arXiv 2603.28254; Parameter Golf #1217): divides each row by max(its Euclidean norm, 1e-7).

    This makes the update invariant to the scale of each row, as orthogonalization is to the scale of the whole matrix.
    """

    def __call__(self, x: Tensor, state: TransformState) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-7)


@register
class RowRMSNorm(PreOrthogonalization):
    """`NeoMuon` (Parameter Golf #640, with three steps of Newton-Schulz): divides each row by its root mean square.

    The result is `RowNorm` times sqrt(n), a factor that orthogonalization removes. The difference is torch's epsilon of
    1.2e-7, which is added to the mean square: rows much smaller than 3e-4 keep their relative sizes.
    """

    def __call__(self, x: Tensor, state: TransformState) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])


class PostOrthogonalization(ABC):
    """A transform of an update (..., m, n) after orthogonalization, with one state tensor per parameter."""

    @abstractmethod
    def init_state(self, param: Tensor) -> Tensor:
        """Return the state before the first step, a tensor with the leading dimensions of the parameter."""

    @abstractmethod
    def __call__(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the transformed update and modify `state` in place."""


@register
class NorMuon(PostOrthogonalization):
    """NorMuon (arXiv 2510.05491; Parameter Golf #230): normalizes each row o of an update to o / (sqrt(v) + eps).

    v <- beta v + (1 - beta) mean(o^2), starting at 0, is a running mean square per row. The result is rescaled to the
    Frobenius norm of the input, so v needs no bias correction. Unlike with `RowNorm`, the update is no longer
    orthogonal.
    """

    def __init__(self, *, beta: FractionBelowOne = 0.95, eps: Epsilon = 1e-8) -> None:
        if not 0 <= beta < 1:
            raise RecipeError(f"beta must be in [0, 1), got {beta}", where="NorMuon.beta")
        self.beta, self.eps = beta, eps

    def init_state(self, param: Tensor) -> Tensor:
        return param.new_zeros(*param.shape[:-1], 1)

    def __call__(self, x: Tensor, state: Tensor) -> Tensor:
        state.lerp_(x.square().mean(-1, keepdim=True), 1.0 - self.beta)
        normalized = x / (state.sqrt() + self.eps)
        return normalized * (_norm(x) / _norm(normalized).clamp_min(1e-30))


class MatrixSplit(ABC):
    """Splits a matrix into blocks that are orthogonalized independently."""

    @abstractmethod
    def unsupported_reason(self, shape: torch.Size) -> str:
        """The reason why a parameter of this shape cannot be split, or "" if it can."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """(..., m, n) -> (..., blocks, rows, n)."""

    @abstractmethod
    def merge(self, pieces: Tensor) -> Tensor:
        """The inverse of `split`."""


@register
class RowBlockSplit(MatrixSplit):
    """Paired heads (Parameter Golf #1512): orthogonalizes blocks of `rows` rows independently (128: two heads of 64).

    Intended for query and key matrices, which need a rule of their own. Momentum, row norms and the factor for tall
    matrices are computed from the whole matrix.
    """

    def __init__(self, *, rows: Width = 128) -> None:
        if rows < 1:
            raise RecipeError(f"rows must be at least 1, got {rows}", where="RowBlockSplit.rows")
        self.rows = rows

    def unsupported_reason(self, shape: torch.Size) -> str:
        return f"{shape[-2]} rows are not a multiple of the block size {self.rows}" if shape[-2] % self.rows else ""

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (-1, self.rows))

    def merge(self, pieces: Tensor) -> Tensor:
        return pieces.flatten(-3, -2)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True)
