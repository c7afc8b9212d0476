"""Differential attention: the difference of two attention maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import AfterPart, Core, QKPart, ValuePart
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms


@register
class DifferentialAttention(Attention):
    """y_h = (1 - l0) rms((A1 - l A2) v), A1 and A2 the softmax maps of the two halves of head h (arXiv 2410.05258).

    l = exp(a1 . b1) - exp(a2 . b2) + l0 with four learned vectors (4, d/2) ~ N(0, 0.1^2), one set a layer, and
    l0 = 0.8 - 0.6 exp(-0.3 layer). Values keep their full width. The `qk` chain and the core see 2H query and 2G key
    heads of width d/2: first every head's first half, then every second half. (Parameter Golf #675 tried it.)
    """

    roles = {"vectors": "scale"}
    pieces = 2

    def __init__(
        self,
        at: Place,
        /,
        *,
        heads: int,
        kv_heads: int,
        core: Spec[Core],
        qk: tuple[Spec[QKPart], ...] = (),
        value: tuple[Spec[ValuePart], ...] = (),
        after: tuple[Spec[AfterPart], ...] = (),
        linear: Spec[Linear] = part(Linear),
    ) -> None:
        width = at.dim // max(heads, 1)
        if width % 2:
            raise RecipeError(f"heads of width {width} have no halves", place="mixer.heads")
        super().__init__(at, heads=heads, kv_heads=kv_heads, core=core, qk=qk, value=value, after=after, linear=linear)
        self.vectors = nn.Parameter(0.1 * torch.randn(4, width // 2))
        self.start = 0.8 - 0.6 * math.exp(-0.3 * at.layer)

    def lam(self) -> Tensor:
        """l, a scalar in float32."""
        a1, b1, a2, b2 = self.vectors.float()
        return (a1 * b1).sum().exp() - (a2 * b2).sum().exp() + self.start

    def split(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads * d) -> (B, T, 2 * heads, d/2), first halves first."""
        return x.unflatten(-1, (heads, 2, -1)).transpose(2, 3).flatten(2, 3)

    def difference(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        """(A1 - l A2) v, (B, T, H, d)."""
        first, second = self.core(q, k, torch.cat([v, v], 2), bus).chunk(2, 2)
        return first - self.lam().to(first.dtype) * second

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        return (1 - self.start) * rms(self.difference(q, k, v, bus))
