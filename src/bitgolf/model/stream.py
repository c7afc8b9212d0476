"""Parts on the residual stream: norms, the mix with the first state, the scale of what branches add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.model.core import Bus, rms
from bitgolf.model.sockets import Branch, Norm, StreamPart
from bitgolf.spec import Place, register


@register
class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps), without a gain (arXiv 1910.07467; the baseline's form)."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return rms(x)


@register
class Normalize(StreamPart):
    """The norm after the embedding: what later layers call x0 is its output."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        return rms(x)


@register
class MixX0(StreamPart):
    """x <- m0 * x + m1 * x0 with two learned vectors (2, D), started at (1, 0): the baseline's `resid_mix`."""

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.ones(at.dim), torch.zeros(at.dim)]))

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        assert bus.x0 is not None
        return self.weight[0] * x + self.weight[1] * bus.x0


@register
class BranchScale(Branch):
    """a * y with a learned vector a (D), started at 1: the baseline's `attn_scale` and `mlp_scale`."""

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(at.dim))

    def forward(self, y: Tensor) -> Tensor:
        return self.weight * y
