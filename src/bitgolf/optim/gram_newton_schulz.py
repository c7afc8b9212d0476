"""Gram Newton-Schulz: the same orthogonalization, iterated on the small matrix of inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.orthogonalize import Coefficients, NewtonSchulz, Orthogonalizer, quintic_iterations


@register
class GramNewtonSchulz(Orthogonalizer):
    """The map `base` another orthogonalizer, by the Gram matrix (Dao-AILab's package; Parameter Golf #1512).

    Each step multiplies the short side's Gram matrix only; what it does to X gathers in Q, and X is touched at the end,
    and before step `restart_step`, where a new Gram matrix throws away the rounding errors of the old one (0: never).
    A square matrix has nothing to gain and goes the plain way. Equal to `base` up to rounding, for any of its tables and
    numbers of steps; in bfloat16 the rounding is two to five times that of the plain form, less so with
    `SafePolarExpress`. It was slower at the widths of #1512, and pays where one side is much the longer.
    """

    def __init__(self, *, base: Spec[Orthogonalizer] = part(NewtonSchulz), restart_step: int = 2) -> None:
        if restart_step < 0:
            raise RecipeError(
                f"there is no step {restart_step}", where="GramNewtonSchulz.restart_step", hint="0 is no restart"
            )
        whole = base()
        super().__init__(whole.coefficients, whole.precision)
        self.restart_step = restart_step

    def iterate(self, x: Tensor) -> Tensor:
        m, n = x.shape[-2:]
        return (
            quintic_iterations(x, self.coefficients)
            if m == n
            else gram_quintic_iterations(x, self.coefficients, self.restart_step)
        )


def gram_quintic_iterations(x: Tensor, triples: Sequence[Coefficients], restart: int) -> Tensor:
    """`quintic_iterations` by way of R = X X^T: a step makes P = a I + b R + c R^2, then Q <- Q P and R <- P R P."""
    m, n = x.shape[-2:]
    y = x.reshape(-1, m, n)
    y = y.mT if m > n else y
    for some in filter(None, (triples[:restart], triples[restart:])):
        y = torch.bmm(_accumulated_factor(torch.bmm(y, y.mT), some), y)
    return (y.mT if m > n else y).reshape(x.shape)


def _accumulated_factor(gram: Tensor, triples: Sequence[Coefficients]) -> Tensor:
    """The one factor Q that these steps amount to, from their first Gram matrix. All factors are polynomials of it."""
    (a, b, c), *rest = triples
    z = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    q = z + a * torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    for after in rest:
        half = torch.baddbmm(gram, gram, z, beta=a)
        gram = torch.baddbmm(half, z, half, beta=a)
        a, b, c = after
        z = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        q = torch.baddbmm(q, q, z, beta=a)
    return q
