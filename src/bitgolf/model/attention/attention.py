"""Attention: one skeleton, chains on queries and keys (`qk`), values (`value`) and the output (`after`), one `core`."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import AfterPart, Core, Mixer, QKPart, ValuePart
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms
from bitgolf.model.part import chain


@register
class Attention(Mixer):
    """Grouped-query attention (arXiv 2305.13245): H query heads, G key/value heads; head h reads k/v head h // (H/G).

    Wq (D, D), Wk and Wv (G d, D), Wo (D, D), which starts at zero.
    """

    pieces: ClassVar[int] = 1  # heads that the `qk` chain and the core see of each head

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
        super().__init__()
        if heads < 1 or kv_heads < 1 or at.dim % heads or heads % kv_heads:
            raise RecipeError(
                f"width {at.dim}, {heads} heads and {kv_heads} key/value heads do not divide", place="mixer"
            )
        at = at._replace(heads=heads, kv_heads=kv_heads)
        self.heads, self.kv_heads = heads, kv_heads
        narrow = at.dim // heads * kv_heads
        self.q = linear(at.matrix(at.dim, at.dim, name="q"))
        self.k = linear(at.matrix(at.dim, narrow, name="k"))
        self.v = linear(at.matrix(at.dim, narrow, name="v"))
        self.out = linear(at.matrix(at.dim, at.dim, zero=True, name="out"))
        cut = at._replace(heads=self.pieces * heads, kv_heads=self.pieces * kv_heads)
        self.qk = chain(qk, cut)
        self.value = chain(value, at)
        self.core = core(cut)
        self.after = chain(after, at)

    def split(self, x: Tensor, heads: int) -> Tensor:
        """Queries or keys, (B, T, heads * d), as the `qk` chain and the core see them."""
        return x.unflatten(-1, (heads, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bus: Bus) -> Tensor:
        """(B, T, H, d)."""
        return self.core(q, k, v, bus)

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        q, k = self.split(self.q(x), self.heads), self.split(self.k(x), self.kv_heads)
        v = self.v(x).unflatten(-1, (self.kv_heads, -1))
        for p in self.qk:
            q, k = p(q, k, bus)
        for p in self.value:
            v = p(v, x, bus)
        y = self.attend(q, k, v, bus)
        for p in self.after:
            y = p(y, x, v)
        return self.out(y.flatten(-2))


@register
class QKNorm(QKPart):
    """Each query and key head divided by its root mean square (arXiv 2010.04245)."""

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        return rms(q), rms(k)


@register
class QGain(QKPart):
    """q_h <- gain_h * q_h, one learned gain a head (H); the softmax scale stays 1/sqrt(d)."""

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /, *, init: float = 1.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((at.heads,), init))

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        return q * self.weight[:, None].to(q.dtype), k
