"""Batched orthogonalization of matrices by odd matrix polynomials: X -> a X + (b A + c A^2) X with A = X X^T.

A few such steps move every singular value of X = U S V^T towards 1 and keep the singular vectors, which approximates
the polar factor U V^T. Only matrix products are needed, so a stack of matrices is processed as one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from bitgolf.config.ranges import Range
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError

Coefficients = tuple[float, float, float]
Precision = Literal["auto", "float32", "bfloat16"]


def frobenius_normalized(x: Tensor, eps: float = 1e-7) -> Tensor:
    """Divide each matrix of x (..., m, n) by its Frobenius norm + eps, so that no singular value exceeds 1."""
    return x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)


def quintic_iterations(x: Tensor, triples: Sequence[Coefficients]) -> Tensor:
    """Apply one step per triple (a, b, c) to every matrix of x (..., m, n), in the dtype of x. Returns (..., m, n).

    Tall matrices are transposed, so that A has the size of the short side. Scaled sums are fused into the products.
    """
    m, n = x.shape[-2:]
    y = x.reshape(-1, m, n)
    y = y.mT if m > n else y
    for a, b, c in triples:
        gram = torch.bmm(y, y.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, polynomial, y, beta=a)
    return (y.mT if m > n else y).reshape(x.shape)


class Orthogonalizer(ABC):
    """Maps every matrix of x (..., m, n) to an approximation of its polar factor. A zero matrix stays zero."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return a contiguous tensor with the shape and dtype of x."""


class PolynomialOrthogonalizer(Orthogonalizer):
    """Orthogonalization by the polynomial of the triples `coefficients`, one per step.

    precision: dtype of the iteration. `auto` is bfloat16 on CUDA and float32 elsewhere, since bfloat16 is many times
    slower on CPUs without bfloat16 units.
    """

    def __init__(self, coefficients: Sequence[Coefficients], precision: Precision) -> None:
        self.coefficients = tuple(coefficients)
        self.precision: Precision = precision

    def dtype(self, device: torch.device) -> torch.dtype:
        half = self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")
        return torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.iterate(frobenius_normalized(x).to(self.dtype(x.device))).to(x.dtype).contiguous()

    def iterate(self, x: Tensor) -> Tensor:
        """Apply all steps to matrices whose singular values are at most 1, in the dtype of x."""
        return quintic_iterations(x, self.coefficients)


@register
class NewtonSchulz(PolynomialOrthogonalizer):
    """Newton-Schulz iteration with one triple for all steps, tuned for a steep slope at zero (Keller Jordan, 2024).

    Five steps map singular values of at least 0.01 into [0.68, 1.135]; smaller ones end below.
    """

    def __init__(self, *, steps: Annotated[int, Range(1, 100)] = 5, precision: Precision = "auto") -> None:
        if steps < 1:
            raise RecipeError(f"steps must be at least 1, got {steps}", where="NewtonSchulz.steps")
        super().__init__([(3.4445, -4.7750, 2.0315)] * steps, precision)


@register
class ConvergentNewtonSchulz(PolynomialOrthogonalizer):
    """Newton-Schulz iteration with (2, -1.5, 0.5), which converges: 1 is a fixed point with slope 0.

    Small singular values double in each step. Twelve steps, the number of modded-nanogpt's optimization track, map
    singular values of at least 0.001 into [0.998, 1].
    """

    def __init__(self, *, steps: Annotated[int, Range(1, 100)] = 12, precision: Precision = "auto") -> None:
        super().__init__([(2.0, -1.5, 0.5)] * steps, precision)


@register
class PolarExpress(PolynomialOrthogonalizer):
    """Polar Express (Amsel et al., arXiv 2505.16932): each step has its own optimal polynomial, in a fixed order.

    Five steps map singular values of at least 0.001 into [0.859, 1.141]. Fewer steps use the first polynomials.
    """

    COEFFICIENTS: tuple[Coefficients, ...] = (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    )

    def __init__(self, *, steps: Annotated[int, Range(1, 5)] = 5, precision: Precision = "auto") -> None:
        if not 1 <= steps <= len(self.COEFFICIENTS):
            raise RecipeError(_steps_error(steps, len(self.COEFFICIENTS)), where="PolarExpress.steps")
        super().__init__(self.COEFFICIENTS[:steps], precision)


@register
class SafePolarExpress(PolynomialOrthogonalizer):
    """Polar Express with the table of its paper and a safety factor s: the coefficients are (a / s, b / s^3, c / s^5).

    This evaluates each polynomial at X / s, so that singular values up to s do not diverge when rounding moves them
    above 1. The Gram package (see `GramNewtonSchulz`) uses s = 1.05 in all steps. Five steps map singular values of at
    least 0.001 into [0.729, 1.124]. Fewer steps use the first polynomials.
    """

    COEFFICIENTS: tuple[Coefficients, ...] = (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )

    def __init__(
        self,
        *,
        steps: Annotated[int, Range(1, 5)] = 5,
        safety_factor: Annotated[float, Range(1, 100)] = 1.05,
        precision: Precision = "auto",
    ) -> None:
        if not 1 <= steps <= len(self.COEFFICIENTS):
            raise RecipeError(_steps_error(steps, len(self.COEFFICIENTS)), where="SafePolarExpress.steps")
        if safety_factor < 1:
            cause = f"safety_factor must be at least 1, got {safety_factor}"
            raise RecipeError(cause, where="SafePolarExpress.safety_factor")
        super().__init__(
            [(a / safety_factor, b / safety_factor**3, c / safety_factor**5) for a, b, c in self.COEFFICIENTS[:steps]],
            precision,
        )


def _steps_error(steps: int, largest: int) -> str:
    return f"steps must be between 1 and {largest}, got {steps}"
