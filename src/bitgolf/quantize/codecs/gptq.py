"""GPTQ: columns are rounded one after the other, and what rounding lost is made up for by the columns to come.

Source: Frantar et al. 2022, arXiv 2210.17323; with full Hessians in openai/parameter-golf from pull request 1019 on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, RecipeError

RoundColumn = Callable[[int, Tensor], Tensor]
"""(turn, what stands in the column whose turn it is (M, R)) -> the values that it will be read back as (M, R)."""

RoundBlock = Callable[[int, Tensor, Tensor], Tensor]
"""(first turn, columns (M, B, R), the part of `InverseCholesky.upper` on the diagonal (M, B, B)) -> the values that they will be read
back as (M, B, R). The columns are changed in place: each is left as it stood when it was rounded."""

RoundToGrid = Callable[[Tensor, Tensor], Tensor]
"""(values, the step of each) -> their int8 codes."""


class InverseCholesky(NamedTuple):
    """A Hessian as the solver uses it. `permutation` (C,): the column that is rounded at each turn; `upper` (C, C) and `dead` (C,)
    are in that order. `upper` is the U of H⁻¹ = UᵀU: an error e at turn j costs (e / U_jj)² once the rest has answered."""

    permutation: Tensor
    upper: Tensor
    dead: Tensor

    def cpu(self) -> InverseCholesky:
        return InverseCholesky(*(x.cpu() for x in self))


@register
class GPTQ:
    """Minimises tr(E H Eᵀ) greedily. `damping`: of the mean of the Hessian's diagonal, added to all of it.

    block: columns whose errors are fed to the rest at once; it changes the speed, not the result.
    order: `activation` rounds the columns with the largest inputs first.
    A column whose inputs were all zero is rounded to zero.
    """

    def __init__(
        self, *, damping: float = 0.01, block: int = 128, order: Literal["activation", "given"] = "activation"
    ) -> None:
        if not damping >= 0:
            raise RecipeError(f"damping is not negative, {damping} is", where="GPTQ.damping")
        if block < 1:
            raise RecipeError(f"a block has at least one column, not {block}", where="GPTQ.block")
        self.damping, self.block, self.order = damping, block, order

    def factorize(self, hessian: Tensor) -> InverseCholesky:
        """Of (C, C), in float64 on its device. `MatrixStats.factorize` remembers it.

        Raises `BitgolfError` where the Hessian is none: not finite, or not positive definite once damped.
        """
        h = hessian.double()
        if not torch.isfinite(h).all():
            raise BitgolfError("the calibration's Hessian has a number that is not finite", hint="calibrate once more")
        diagonal = h.diagonal().clone()
        dead = diagonal <= 0
        mean = diagonal.masked_fill(dead, 0.0).sum() / (~dead).sum().clamp_min(1)
        order = torch.arange(len(h), device=h.device)
        if self.order == "activation":
            order = torch.argsort(diagonal, descending=True, stable=True)
        h = h[order][:, order]
        h.diagonal().add_(self.damping * mean).masked_fill_(dead[order], 1.0)
        try:
            lower = torch.linalg.cholesky(h.flip(0, 1))  # H = RRᵀ with R upper, so U is R⁻¹
        except torch.linalg.LinAlgError as error:
            raise BitgolfError(
                "the calibration's Hessian is not positive definite",
                hint="calibrate on more text, or raise the damping",
            ) from error
        identity = torch.eye(len(h), dtype=h.dtype, device=h.device)
        upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
        return InverseCholesky(order, upper.float(), dead[order])

    def quantize_columns(self, w: Tensor, factors: Sequence[InverseCholesky], round_block: RoundBlock) -> None:
        """Call `round_block` for every block of columns of `w` (M, R, C), each with the errors of those before it fed in.

        factors: one for each of the M matrices, which lie on one device and share nothing but their shape: each comes out
        as if it were alone, for a number of kernel launches that does not grow with M but for a product a block.
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
        """int8 (M, R, C), the codes of `w` (M, R, C), where a code c is read back as c * step.

        step: (M, R, C), or what expands to it.  kept: bool (M, R, C), the codes that may differ from zero; None: all.
        """
        step = _permuted_columns(step.expand_as(w), factors)
        allowed = None if kept is None else _permuted_columns(kept, factors)
        codes = torch.empty(step.shape, dtype=torch.int8, device=w.device)

        def rounded(turn: int, column: Tensor) -> Tensor:
            found = nearest(column, step[:, turn])
            codes[:, turn] = found if allowed is None else found * allowed[:, turn]
            return codes[:, turn].float() * step[:, turn]

        self.quantize_columns(w, factors, columnwise(rounded))
        found = torch.empty(w.shape, dtype=torch.int8, device=w.device)
        for one, factor, turned in zip(found, factors, codes, strict=True):
            one[:, factor.permutation] = turned.T
        return found


def columnwise(rounded: RoundColumn) -> RoundBlock:
    """A block, column by column. Within it an error is fed to the later columns at once."""

    def block_rounded(start: int, block: Tensor, upper: Tensor) -> Tensor:
        values, pivots = torch.empty_like(block), upper.diagonal(dim1=1, dim2=2)[..., None]
        for j in range(block.shape[1]):
            values[:, j] = rounded(start + j, block[:, j])
            error = (block[:, j] - values[:, j]) / pivots[:, j]
            block[:, j + 1 :].addcmul_(upper[:, j, j + 1 :, None], error[:, None], value=-1.0)
        return values

    return block_rounded


def _permuted_columns(x: Tensor, factors: Sequence[InverseCholesky]) -> Tensor:
    """(M, C, R) from (M, R, C): the columns in the order of their turns, each contiguous."""
    for factor in factors:
        if x.shape[2] != len(factor.permutation):
            raise BitgolfError(f"a matrix of {x.shape[2]} columns has a Hessian of {len(factor.permutation)}")
    return torch.stack([one.T[factor.permutation] for one, factor in zip(x, factors, strict=True)])
