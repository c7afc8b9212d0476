"""Attention: projections, an attention core, and chains of parts around it.

The chains act on queries and keys (`qk`), on values (`value`) and on the output of the core (`post_attention`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore, AttentionOutputPart, QKPart, TokenMixer, ValuePart
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms_norm
from bitgolf.model.part import build_chain


@register
class Attention(TokenMixer):
    """Grouped-query attention (arXiv 2305.13245) with H query heads and G key/value heads: (B, T, D) -> (B, T, D).

    Query head h uses key/value head h // (H/G). Wq is (D, D), Wk and Wv are (G d, D); Wo is (D, D), initialized to
    zero. Raises `RecipeError` if D is not a multiple of H, or H not a multiple of G.
    """

    splits_per_head: ClassVar[int] = 1  # heads that the `qk` chain receives for each head
    core_splits_per_head: ClassVar[int] = 1  # heads that the core receives for each head

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        heads: Width,
        kv_heads: Width,
        core: Spec[AttentionCore],
        qk: tuple[Spec[QKPart], ...] = (),
        value: tuple[Spec[ValuePart], ...] = (),
        post_attention: tuple[Spec[AttentionOutputPart], ...] = (),
        linear: Spec[Linear] = part(Linear),
    ) -> None:
        super().__init__()
        if heads < 1 or kv_heads < 1 or context.dim % heads or heads % kv_heads:
            raise RecipeError(
                f"heads={heads} must divide the width {context.dim}, and kv_heads={kv_heads} must divide heads",
                where="mixer",
                hint="both must be at least 1",
            )
        context = context._replace(heads=heads, kv_heads=kv_heads)
        self.heads, self.kv_heads = heads, kv_heads
        self.add_input_matrices(context, linear)
        self.out = linear(context.for_matrix(context.dim, context.dim, zero=True, name="out"))
        self.qk = build_chain(qk, _split(context, self.splits_per_head))
        self.value = build_chain(value, context)
        self.core = core(_split(context, self.core_splits_per_head))
        self.post_attention = build_chain(post_attention, context)

    def add_input_matrices(self, context: BuildContext, linear: Spec[Linear]) -> None:
        """Build the matrices of queries, keys and values."""
        kv_dim = context.dim // self.heads * self.kv_heads
        self.q = linear(context.for_matrix(context.dim, context.dim, name="q"))
        self.k = linear(context.for_matrix(context.dim, kv_dim, name="k"))
        self.v = linear(context.for_matrix(context.dim, kv_dim, name="v"))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> queries (B, T, D), keys and values (B, T, G d), before they are split into heads."""
        return self.q(x), self.k(x), self.v(x)

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        """Split queries or keys (B, T, heads * d) into the heads that the `qk` chain receives."""
        return x.unflatten(-1, (heads, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        """Attention output before the `post_attention` chain, (B, T, H, d)."""
        return self.core(q, k, v, context)

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        queries, k, v = self.queries_keys_values(x)
        q, k = self.split_heads(queries, self.heads), self.split_heads(k, self.kv_heads)
        v = v.unflatten(-1, (self.kv_heads, -1))
        for p in self.qk:
            q, k = p(q, k, context)
        for p in self.value:
            v = p(v, x, context)
        y = self.attend(q, k, v, context)
        for p in self.post_attention:
            y = p(y, queries if p.reads_queries else x, v)
        return self.out(y.flatten(-2))


@register
class FusedAttention(Attention):
    """`Attention` with one matrix [Wq; Wk; Wv] (D + 2 G d, D) instead of three: Parameter Golf #640, #641.

    It computes the same, but Muon orthogonalizes the three together. The matrix has the name `qkv`.
    """

    def add_input_matrices(self, context: BuildContext, linear: Spec[Linear]) -> None:
        kv_dim = context.dim // self.heads * self.kv_heads
        self.qkv = linear(context.for_matrix(context.dim, context.dim + 2 * kv_dim, name="qkv"))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, kv = self.qkv(x).tensor_split([x.shape[-1]], -1)
        return (q, *kv.chunk(2, -1))


def _split(context: BuildContext, splits: int) -> BuildContext:
    """The context with `splits` heads for each query head and each key/value head."""
    return context._replace(heads=splits * context.heads, kv_heads=splits * context.kv_heads)


@register
class QKNorm(QKPart):
    """QK norm: RMS normalization of each query and key head (arXiv 2010.04245)."""

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        return rms_norm(q), rms_norm(k)


@register
class QGain(QKPart):
    """q_h <- gain_h * q_h with one learned gain per head, (H,). The softmax scale stays 1/sqrt(d)."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, init: Finite = 1.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((context.heads,), init))

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        return q * self.weight[:, None].to(q.dtype), k
