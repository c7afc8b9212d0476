"""GPTQ: columns are rounded one after another, and the rounding error of each is compensated in the remaining columns.

Source: Frantar et al. 2022, arXiv 2210.17323; with full Hessians in openai/parameter-golf from pull request 1019 on.
Shapes: M matrices are solved together, each of R rows and C columns; B is the number of columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bitgolf.config.ranges import NonNegative, Width
from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, RecipeError

RoundColumn = Callable[[int, Tensor], Tensor]
"""(position in the solving order, current values of that column (M, R)) -> their quantized values (M, R)."""

RoundBlock = Callable[[int, Tensor, Tensor], Tensor]
"""(first position, columns (M, B, R), diagonal block (M, B, B) of `InverseCholesky.upper`) -> quantized (M, B, R).

The columns are changed in place to the values that are rounded, which include the feedback of earlier columns."""

RoundToGrid = Callable[[Tensor, Tensor], Tensor]
"""(values, steps of the same shape) -> int8 codes."""


class InverseCholesky(NamedTuple):
    """Cholesky factor of an inverse Hessian, H⁻¹ = UᵀU, in the order in which columns are rounded.

    permutation (C,): the original column at each position.  upper (C, C): U in that order. An error e at position j
    costs (e / U_jj)² after the later columns have compensated for it.  dead (C,): columns whose inputs are all zero.
    """

    permutation: Tensor
    upper: Tensor
    dead: Tensor

    def cpu(self) -> InverseCholesky:
        return InverseCholesky(*(x.cpu() for x in self))


@register
class GPTQ:
    """Minimises tr(E H Eᵀ) greedily, column by column. A column whose inputs are all zero is rounded to zero.

    damping: this fraction of the mean diagonal of the Hessian is added to its diagonal. Columns whose inputs are all
    zero count as 1 in the mean, as in the published solvers; in our calibration 1 is a mean square per token.
    block: number of columns whose errors are applied to the remaining columns together; affects speed only.
    order: `activation` rounds the columns with the largest inputs first, `given` keeps the order of the matrix.
    """

    def __init__(
        self, *, damping: NonNegative = 0.01, block: Width = 128, order: Literal["activation", "given"] = "activation"
    ) -> None:
        if not damping >= 0:
            raise RecipeError(f"damping must be at least 0, got {damping}", where="GPTQ.damping")
        if block < 1:
            raise RecipeError(f"a block must have at least 1 column, got {block}", where="GPTQ.block")
        self.damping, self.block, self.order = damping, block, order

    def factorize(self, hessian: Tensor) -> InverseCholesky:
        """The factor of a Hessian (C, C), computed in float64 on its device. `MatrixStats.factorize` caches it.

        Raises `BitgolfError` if the Hessian is not finite, or not positive definite after damping.
        """
        h = hessian.double()
        if not torch.isfinite(h).all():
            raise BitgolfError("the Hessian of the calibration is not finite", hint="run again with --from calibrate")
        diagonal = h.diagonal().clone()
        dead = diagonal <= 0
        mean = diagonal.masked_fill(dead, 1.0).mean()
        order = torch.arange(len(h), device=h.device)
        if self.order == "activation":
            order = torch.argsort(diagonal, descending=True, stable=True)
        h = h[order][:, order]
        h.diagonal().add_(self.damping * mean).masked_fill_(dead[order], 1.0)
        try:
            lower = torch.linalg.cholesky(h.flip(0, 1))  # H = RRᵀ with R upper, so U is R⁻¹
        except torch.linalg.LinAlgError as error:
            raise BitgolfError(
                f"the Hessian of the calibration is not positive definite with damping {self.damping:g}",
                hint="calibrate on more text, or raise the damping",
            ) from error
        identity = torch.eye(len(h), dtype=h.dtype, device=h.device)
        upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
        return InverseCholesky(order, upper.float(), dead[order])

    def quantize_columns(self, w: Tensor, factors: Sequence[InverseCholesky], round_block: RoundBlock) -> None:
        """Call `round_block` for each block of columns of `w` (M, R, C), after adding the feedback of earlier blocks.

        factors: one for each of the M matrices, on the device of `w`. The results equal those of each matrix alone;
        except for one matrix product per block, the number of kernel launches does not grow with M.
        """
        left = _permuted_columns(w.float(), factors)
        left.masked_fill_(torch.stack([factor.dead for factor in factors])[..., None], 0.0)
        for start in range(0, w.shape[2], self.block):
            end = min(start + self.block, w.shape[2])
            block, upper = left[:, start:end], torch.stack([f.upper[start:end, start:end] for f in factors])
            errors = (block - round_block(start, block, upper)) / upper.diagonal(dim1=1, dim2=2)[..., None]
            for rest, factor, error in zip(left[:, end:], factors, errors, strict=True):
                rest.addmm_(factor.upper[start:end, end:].T, error, alpha=-1.0)

    def quantize(
        self,
        w: Tensor,
        factors: Sequence[InverseCholesky],
        step: Tensor,
        nearest: RoundToGrid,
        kept: Tensor | None = None,
    ) -> Tensor:
        """int8 codes (M, R, C) of `w` (M, R, C); a code c decodes to c * step.

        step: (M, R, C) or broadcastable to it.  nearest: rounds a column to the grid, without feedback.
        kept: bool (M, R, C), False forces a code to zero (pruning); None keeps all.
        """
        step = _permuted_columns(step.expand_as(w), factors)
        allowed = None if kept is None else _permuted_columns(kept, factors)
        codes = torch.empty(step.shape, dtype=torch.int8, device=w.device)

        def rounded(position: int, column: Tensor) -> Tensor:
            found = nearest(column, step[:, position])
            codes[:, position] = found if allowed is None else found * allowed[:, position]
            return codes[:, position].float() * step[:, position]

        self.quantize_columns(w, factors, columnwise(rounded))
        found = torch.empty(w.shape, dtype=torch.int8, device=w.device)
        for one, factor, ordered in zip(found, factors, codes, strict=True):
            one[:, factor.permutation] = ordered.T
        return found


def columnwise(rounded: RoundColumn) -> RoundBlock:
    """A block rounder from a column rounder; the error of each column is fed to the later columns of the block."""

    def block_rounded(start: int, block: Tensor, upper: Tensor) -> Tensor:
        values, pivots = torch.empty_like(block), upper.diagonal(dim1=1, dim2=2)[..., None]
        for j in range(block.shape[1]):
            values[:, j] = rounded(start + j, block[:, j])
            error = (block[:, j] - values[:, j]) / pivots[:, j]
            block[:, j + 1 :].addcmul_(upper[:, j, j + 1 :, None], error[:, None], value=-1.0)
        return values

    return block_rounded


def _permuted_columns(x: Tensor, factors: Sequence[InverseCholesky]) -> Tensor:
    """(M, C, R) from (M, R, C): the columns in solving order, each contiguous."""
    for factor in factors:
        if x.shape[2] != len(factor.permutation):
            raise BitgolfError(
                f"a matrix of {x.shape[2]} columns has a Hessian of {len(factor.permutation)}",
                hint="run again with --from calibrate",
            )
    return torch.stack([one.T[factor.permutation] for one, factor in zip(x, factors, strict=True)])
