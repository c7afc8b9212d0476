"""Gram Newton-Schulz: the same orthogonalization, iterated on the small matrix of inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer, Triple, quintic


@register
class GramNewtonSchulz(Orthogonalizer):
    """The map `of` another orthogonalizer, by the Gram matrix (Dao-AILab's package; Parameter Golf #1512).

    Each step multiplies the short side's Gram matrix only; what it does to X gathers in Q, and X is touched at the end,
    and before step `restart`, where a new Gram matrix throws away the rounding errors of the old one (0: never).
    A square matrix has nothing to gain and goes the plain way. Equal to `of` up to rounding, for any of its tables and
    numbers of steps; in bfloat16 the rounding is two to five times that of the plain form, less so with
    `CushionedPolarExpress`. It was slower at the widths of #1512, and pays where one side is much the longer.
    """

    def __init__(self, *, of: Spec[Orthogonalizer] = part(NewtonSchulz), restart: int = 2) -> None:
        if restart < 0:
            raise RecipeError(f"there is no step {restart}", place="GramNewtonSchulz.restart", mend="0 is no restart")
        whole = of()
        super().__init__(whole.triples, whole.precision)
        self.restart = restart

    def iterate(self, x: Tensor) -> Tensor:
        m, n = x.shape[-2:]
        return quintic(x, self.triples) if m == n else gram_quintic(x, self.triples, self.restart)


def gram_quintic(x: Tensor, triples: Sequence[Triple], restart: int) -> Tensor:
    """`quintic` by way of R = X X^T: a step makes P = a I + b R + c R^2, then Q <- Q P and R <- P R P."""
    m, n = x.shape[-2:]
    y = x.reshape(-1, m, n)
    y = y.mT if m > n else y
    for some in filter(None, (triples[:restart], triples[restart:])):
        y = torch.bmm(_gathered(torch.bmm(y, y.mT), some), y)
    return (y.mT if m > n else y).reshape(x.shape)


def _gathered(gram: Tensor, triples: Sequence[Triple]) -> Tensor:
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
