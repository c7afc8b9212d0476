"""Orthogonalization of matrices by odd matrix polynomials, batched: X -> a X + (b A + c A^2) X with A = X X^T.

A few such steps push every singular value of X towards 1 and leave its singular vectors alone, which turns X = U S V^T
into nearly its polar factor U V^T. Only products of matrices are needed, so a stack of matrices is one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError

Coefficients = tuple[float, float, float]
Precision = Literal["auto", "float32", "bfloat16"]


def frobenius_normalized(x: Tensor, eps: float = 1e-7) -> Tensor:
    """Each matrix of (..., m, n) divided by its Frobenius norm + eps, so that no singular value exceeds 1."""
    return x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)


def quintic_iterations(x: Tensor, triples: Sequence[Coefficients]) -> Tensor:
    """One step per triple (a, b, c) on every matrix of (..., m, n), in x's own type.

    Works on the short side (a tall matrix is transposed), and fuses each scaled sum into the product before it.
    """
    m, n = x.shape[-2:]
    y = x.reshape(-1, m, n)
    y = y.mT if m > n else y
    for a, b, c in triples:
        gram = torch.bmm(y, y.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, polynomial, y, beta=a)
    return (y.mT if m > n else y).reshape(x.shape)


class Orthogonalizer:
    """Maps every matrix of (..., m, n) to nearly its polar factor; a matrix of zeros stays zero.

    `precision` is the type of the iteration: `auto` is bfloat16 on CUDA and float32 elsewhere, since CPUs without
    bfloat16 units are many times slower at it. The result has the type of the argument, and is contiguous.
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
        """All steps on matrices whose singular values are at most 1, in x's own type."""
        return quintic_iterations(x, self.coefficients)


@register
class NewtonSchulz(Orthogonalizer):
    """One triple for every step, tuned by Keller Jordan for a steep slope at zero (Muon, 2024).

    Five steps bring singular values of 0.01 and more into [0.68, 1.135]; smaller ones stay behind.
    """

    def __init__(self, *, steps: int = 5, precision: Precision = "auto") -> None:
        if steps < 1:
            raise RecipeError("Newton-Schulz needs at least one step", where="NewtonSchulz.steps")
        super().__init__([(3.4445, -4.7750, 2.0315)] * steps, precision)


@register
class PolarExpress(Orthogonalizer):
    """The optimal polynomial of each step in turn (Amsel et al., arXiv 2505.16932), so order matters.

    Five steps bring singular values of 0.001 and more into [0.859, 1.141]; fewer steps take the first ones.
    """

    COEFFICIENTS: tuple[Coefficients, ...] = (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    )

    def __init__(self, *, steps: int = 5, precision: Precision = "auto") -> None:
        if not 1 <= steps <= len(self.COEFFICIENTS):
            raise RecipeError(f"Polar Express has 1 to {len(self.COEFFICIENTS)} steps", where="PolarExpress.steps")
        super().__init__(self.COEFFICIENTS[:steps], precision)


@register
class SafePolarExpress(Orthogonalizer):
    """Polar Express by its paper's own table, with a safety factor: (a / s, b / s^3, c / s^5).

    Each polynomial is then that of X / s, so rounding may push a singular value up to s past 1 and still not diverge.
    The Gram package (see `GramNewtonSchulz`) uses s = 1.05 in all of its steps: five bring singular values of 0.001 and
    more into [0.729, 1.124]. Fewer steps take the first ones.
    """

    COEFFICIENTS: tuple[Coefficients, ...] = (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )

    def __init__(self, *, steps: int = 5, safety_factor: float = 1.05, precision: Precision = "auto") -> None:
        if not 1 <= steps <= len(self.COEFFICIENTS):
            raise RecipeError(f"its table has 1 to {len(self.COEFFICIENTS)} steps", where="SafePolarExpress.steps")
        if safety_factor < 1:
            raise RecipeError(f"a factor of {safety_factor} is no cushion", where="SafePolarExpress.safety_factor")
        super().__init__(
            [(a / safety_factor, b / safety_factor**3, c / safety_factor**5) for a, b, c in self.COEFFICIENTS[:steps]],
            precision,
        )
