"""Contra-Muon: orthogonalization minus a share of the update that is orthogonalized."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from bitgolf.config.ranges import Range
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.optim.orthogonalize import ConvergentNewtonSchulz, Orthogonalizer

POWER_ITERATIONS = 5
SMALLEST_NORM = 1e-10


@register
class ContraMuon(Orthogonalizer):
    """O - (strength / 2) X / |X|, rescaled to the Frobenius norm of O = `base`(X), with |X| the spectral norm of X.

    A singular value s of X / |X| becomes about 1 - strength s / 2: the strongest directions get smaller steps. Strength
    0 is `base` itself. The spectral norm is estimated by five power iterations, which start at the vector of ones.
    Source: KellerJordan/modded-nanogpt, track 3, pull request 275 (strength 0.4 with twelve steps of
    `ConvergentNewtonSchulz`, learning rate 0.0375; 3,225 steps). That system also normalizes rows or columns after it
    (`NorMuon`), and raises updates that are small relative to the weights, which is not implemented here.
    """

    def __init__(
        self,
        *,
        base: Spec[Orthogonalizer] = part(ConvergentNewtonSchulz),
        strength: Annotated[float, Range(0, 2)] = 0.4,
    ) -> None:
        self.base, self.strength = base(), strength

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        plain = self.base(x)
        changed = plain - 0.5 * self.strength * x / estimated_spectral_norm(x)
        norms = [torch.linalg.matrix_norm(y, keepdim=True) for y in (plain, changed)]
        return changed * (norms[0] / norms[1].clamp_min(SMALLEST_NORM))


def estimated_spectral_norm(x: Tensor, iterations: int = POWER_ITERATIONS) -> Tensor:
    """(..., 1, 1): the largest singular value of each matrix (..., m, n), at least 1e-10, by power iterations.

    The estimate is never above the singular value, apart from rounding.
    """
    v = torch.ones_like(x[..., :1, :]).mT
    v = v / v.shape[-2] ** 0.5
    for _ in range(iterations):
        u = _normalized(x @ v)
        v = _normalized(x.mT @ u)
    return torch.linalg.vector_norm(x @ v, dim=-2, keepdim=True).clamp_min(SMALLEST_NORM)


def _normalized(v: Tensor) -> Tensor:
    """Divide each column vector (..., k, 1) by its norm, or by 1e-10 if that is larger."""
    return v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_min(SMALLEST_NORM)
