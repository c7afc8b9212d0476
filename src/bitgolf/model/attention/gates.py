"""Gates on the attention output: factors per head, computed from the input of attention, from its queries, or learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, NonNegative, Width
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import AttentionOutputPart


class AttentionGate(AttentionOutputPart):
    """y_h <- gate((W x)_h) y_h with W (H, width), applied to the first `width` dimensions of x.

    W is initialised to zero. Raises `RecipeError` if `width` is not between 1 and D.
    """

    roles = {"weight": "gate"}

    def __init__(self, context: BuildContext, width: int) -> None:
        super().__init__()
        if not 1 <= width <= context.dim:
            raise RecipeError(
                f"width must be between 1 and {context.dim}, got {width}", where=f"{type(self).__name__}.width"
            )
        self.weight = nn.Parameter(torch.zeros(context.heads, width))

    def gate(self, z: Tensor) -> Tensor:
        """Gate factors from z = W x, both (B, T, H)."""
        raise NotImplementedError

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        z = F.linear(x[..., : self.weight.shape[1]], self.weight.to(x.dtype))
        return y * self.gate(z)[..., None].to(y.dtype)


@register
class DenseAttentionGate(AttentionGate):
    """sigmoid(W x + b) with W (H, D) ~ N(0, std^2), initially about 0.5 (arXiv 2505.06708; Parameter Golf #1736).

    bias: initial value of b (H,), or None for no b. The scripts of #549 to #1512 have `std=0, bias=4`, initially 0.98.
    """

    roles = {"weight": "gate", "bias": "scale"}

    def __init__(self, context: BuildContext, /, *, std: NonNegative = 0.005, bias: Finite | None = None) -> None:
        super().__init__(context, context.dim)
        if not self.weight.is_meta:  # as in `inits.initialize`
            nn.init.normal_(self.weight, std=std)
        self.bias = None if bias is None else nn.Parameter(torch.full((context.heads,), bias))

    def gate(self, z: Tensor) -> Tensor:
        return (z if self.bias is None else z + self.bias.to(z.dtype)).sigmoid()


@register
class NarrowAttentionGate(AttentionGate):
    """2 sigmoid(W x[:width]) with W (H, width) = 0, initially exactly 1 (AttnOutGate, Parameter Golf #1667)."""

    identity_at_init = True

    def __init__(self, context: BuildContext, /, *, width: Width = 12) -> None:
        super().__init__(context, width)

    def gate(self, z: Tensor) -> Tensor:
        return 2 * z.sigmoid()


@register
class QueryAttentionGate(NarrowAttentionGate):
    """2 sigmoid(W q[:width]), with the queries q (B, T, D) of all heads before the `qk` chain (Parameter Golf #1667).

    #1667 has it as an alternative to `NarrowAttentionGate`, and submitted the latter.
    """

    reads_queries = True


@register
class SparseAttentionGate(AttentionGate):
    """sigmoid(scale * W x[:width]) with W (H, width) = 0, initially exactly 0.5.

    From modded-nanogpt; Parameter Golf #1787 with scale 1, #1855 with scale 0.5.
    """

    def __init__(self, context: BuildContext, /, *, width: Width = 12, scale: Finite = 1.0) -> None:
        super().__init__(context, width)
        self.scale = scale

    def gate(self, z: Tensor) -> Tensor:
        return (self.scale * z).sigmoid()


@register
class LearnedHeadGate(AttentionOutputPart):
    """y_h <- sigmoid(g_h) y_h with one learned number per head, g (H,), initialized to `init` (3 gives 0.95).

    Tried on #1493, in the branch of Parameter Golf #1512. Unlike `AttentionGate`, it does not depend on the position.
    """

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, init: Finite = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((context.heads,), init))

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return y * self.weight.sigmoid()[:, None].to(y.dtype)


@register
class LearnedChannelGate(AttentionOutputPart):
    """y <- (1 + g) y with one learned number per head and channel, g (H, d), initialized to 0.

    Tried on #1493, in the branch of Parameter Golf #1512.
    """

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context.heads, context.dim // context.heads))

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return y * (1 + self.weight).to(y.dtype)
