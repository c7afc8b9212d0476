"""GPTQ: columns are rounded one after the other, and what rounding lost is made up for by the columns to come.

Source: Frantar et al. 2022, arXiv 2210.17323; with full Hessians in openai/parameter-golf from pull request 1019 on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.spec import register

RoundColumn = Callable[[int, Tensor], Tensor]
"""(column of the matrix, what stands in it now (R,)) -> the values that it will be read back as (R,)."""


class Factor(NamedTuple):
    """A Hessian as the solver uses it. `order` (C,): the column that is rounded at each turn; `upper` (C, C) and `dead` (C,)
    are in that order. `upper` is the U of H⁻¹ = UᵀU: an error e at turn j costs (e / U_jj)² once the rest has answered."""

    order: Tensor
    upper: Tensor
    dead: Tensor


@register
class Gptq:
    """Minimises tr(E H Eᵀ) greedily. `damping`: of the mean of the Hessian's diagonal, added to all of it.

    block: columns whose errors are fed to the rest at once; it changes the speed, not the result.
    order: `activation` rounds the columns with the largest inputs first.
    A column whose inputs were all zero is rounded to zero.
    """

    def __init__(
        self, *, damping: float = 0.01, block: int = 128, order: Literal["activation", "given"] = "activation"
    ) -> None:
        if not damping >= 0:
            raise RecipeError(f"damping is not negative, {damping} is", place="Gptq.damping")
        if block < 1:
            raise RecipeError(f"a block has at least one column, not {block}", place="Gptq.block")
        self.damping, self.block, self.order = damping, block, order
        self._last: tuple[Tensor, Factor] | None = None

    def factor(self, hessian: Tensor) -> Factor:
        """Of (C, C); the same tensor again, as q, k and v have it, costs nothing.

        Raises `BitgolfError` where the Hessian is none: not finite, or not positive definite once damped.
        """
        if self._last is None or self._last[0] is not hessian:
            self._last = hessian, self._factor(hessian)
        return self._last[1]

    def _factor(self, hessian: Tensor) -> Factor:
        h = hessian.double()
        if not torch.isfinite(h).all():
            raise BitgolfError("the calibration's Hessian has a number that is not finite", mend="calibrate once more")
        diagonal = h.diagonal().clone()
        dead = diagonal <= 0
        order = torch.arange(len(h), device=h.device)
        if self.order == "activation":
            order = torch.argsort(diagonal, descending=True, stable=True)
        h = h[order][:, order]
        h.diagonal().add_(self.damping * diagonal[~dead].mean().nan_to_num())
        h.diagonal()[dead[order]] = 1.0
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
            upper = torch.linalg.cholesky(inverse, upper=True)
        except torch.linalg.LinAlgError:
            raise BitgolfError(
                "the calibration's Hessian is not positive definite",
                mend="calibrate on more text, or raise the damping",
            ) from None
        return Factor(order, upper.float(), dead[order])

    def feed(self, w: Tensor, factor: Factor, rounded: RoundColumn) -> None:
        """Call `rounded` for every column of `w` (R, C), each with the errors of those before it fed in."""
        if w.shape[1] != len(factor.order):
            raise BitgolfError(f"a matrix of {w.shape[1]} columns has a Hessian of {len(factor.order)}")
        left = w.float().T[factor.order].contiguous()  # (C, R): a column is contiguous
        left[factor.dead] = 0.0
        for start in range(0, len(left), self.block):
            end = min(start + self.block, len(left))
            upper, block = factor.upper[start:end], left[start:end]
            errors = torch.empty_like(block)
            for j in range(end - start):
                column = block[j]
                errors[j] = (column - rounded(int(factor.order[start + j]), column)) / upper[j, start + j]
                block[j + 1 :].addr_(upper[j, start + j + 1 : end], errors[j], alpha=-1.0)
            left[end:].addmm_(upper[:, end:].T, errors, alpha=-1.0)
