"""Feed-forward branches (MLPs) and their activation functions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.interfaces import Activation, FeedForward
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms_norm


@register
class MLP(FeedForward):
    """act(x W_up^T) W_down^T with W_up (hidden, D) and W_down (D, hidden).

    W_down is initialized to zero, so the initial output of the branch is zero.
    """

    def __init__(
        self, context: BuildContext, /, *, hidden: Width, act: Spec[Activation], linear: Spec[Linear] = part(Linear)
    ) -> None:
        super().__init__()
        self.up = linear(context.for_matrix(context.dim, hidden, name="up"))
        self.act = act(context)
        self.down = linear(context.for_matrix(hidden, context.dim, zero=True, name="down"))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


@register
class SwiGLU(FeedForward):
    """(silu(x W_gate^T) * x W_up^T) W_down^T (arXiv 2002.05202). The activation cannot be chosen.

    W_gate and W_up are (hidden, D). W_down is (D, hidden) and initialized to zero.
    """

    def __init__(self, context: BuildContext, /, *, hidden: Width, linear: Spec[Linear] = part(Linear)) -> None:
        super().__init__()
        self.gate = linear(context.for_matrix(context.dim, hidden, name="gate"))
        self.up = linear(context.for_matrix(context.dim, hidden, name="up"))
        self.down = linear(context.for_matrix(hidden, context.dim, zero=True, name="down"))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@register
class NormedSwiGLU(FeedForward):
    """rms(silu(g) * u) W_down^T with [g, u] = x W^T, and one matrix W (2 hidden, D) for both (#640).

    The RMS norm over the hidden dimension suits a ternary or binary W_down (D, hidden), which is initialized to zero.
    """

    def __init__(self, context: BuildContext, /, *, hidden: Width, linear: Spec[Linear] = part(Linear)) -> None:
        super().__init__()
        self.gate_up = linear(context.for_matrix(context.dim, 2 * hidden, name="gate_up"))
        self.down = linear(context.for_matrix(hidden, context.dim, zero=True, name="down"))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(rms_norm(F.silu(gate) * up))


@register
class ReLU(Activation):
    """max(u, 0)."""

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(u)


@register
class LeakyReLU(Activation):
    """u for u > 0, otherwise slope * u."""

    def __init__(self, context: BuildContext, /, *, slope: Finite = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, u: Tensor) -> Tensor:
        return F.leaky_relu(u, self.slope)


@register
class SquaredReLU(Activation):
    """relu(u)^2 (Primer, arXiv 2109.08668; the baseline's activation)."""

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(u).square()


@register
class SquaredLeakyReLU(Activation):
    """Square of `LeakyReLU`: never negative, with a gradient on both sides of zero (Parameter Golf #493, slope 0.5)."""

    def __init__(self, context: BuildContext, /, *, slope: Finite = 0.5) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, u: Tensor) -> Tensor:
        return F.leaky_relu(u, self.slope).square()
