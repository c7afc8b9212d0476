"""Which Hessians calibration measures in addition to that of the inputs: weighted by output gradients, or two-sided."""

from __future__ import annotations

from bitgolf.config.ranges import Width
from bitgolf.config.registry import register


class HessianKind:
    """Settings of `Calibrate.hessians`.

    row_groups: number of groups of outputs with a Hessian of their own.  outputs: whether the Hessian of the outputs is
    measured. Embedding tables and output heads always have the Hessian of their inputs alone.
    """

    row_groups: int = 1
    outputs: bool = False


@register
class GuidedHessians(HessianKind):
    """GuidedQuant (arXiv 2505.07004): the Hessian of the inputs, weighted by the squared gradients of the outputs.

    The rows of a matrix form `row_groups` groups of consecutive rows of nearly equal number. For each group the Hessian
    is the mean of x x^T over tokens, weighted by the sum of squared gradients of the group's outputs. If these sums are
    equal for all tokens, it is the ordinary Hessian.
    One group replaces the Hessian for any codec. Several are used by `IntRows` with a solver only, and need 4 C^2 bytes
    each for a matrix of C columns, as q, k and v no longer share one (paper: 4 groups; 1 for its largest models). During
    calibration, the inputs of all matrices are kept until the backward pass has used them.
    """

    def __init__(self, *, row_groups: Width = 4) -> None:
        self.row_groups = row_groups


@register
class KroneckerHessians(HessianKind):
    """YAQA (arXiv 2505.22988): a Kronecker product of two Hessians, that of the inputs and that of the outputs.

    Both are means over tokens, of |g|^2 x x^T and of |x|^2 g g^T, with g the gradient of the loss on a sampled target
    with respect to the outputs: one power iteration, started at identity matrices, towards the Kronecker product nearest
    to the Fisher information (the paper's sketch A, which treats tokens as independent and makes six iterations).
    `IntRows` with a solver then feeds errors back between rows as well as between columns, in proportion to R^2 C + R C^2
    operations for R rows and C columns, on the CPU. Needs 4 (R^2 + C^2) bytes per matrix.
    """

    outputs = True
