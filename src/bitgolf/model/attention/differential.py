"""Differential attention: the difference of two softmax attention maps, or of what they read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import AttentionCore, AttentionOutputPart, QKPart, ValuePart
from bitgolf.model.linear import Linear
from bitgolf.model.numerics import rms_norm


@register
class DifferentialAttention(Attention):
    """y_h = (1 - l0) rms((A1 - l A2) v); A1 and A2 are the softmax maps of the two halves of head h (arXiv 2410.05258).

    l = exp(a1 . b1) - exp(a2 . b2) + l0 with four learned vectors per layer, (4, d/2), initialized from N(0, 0.1^2),
    and l0 = 0.8 - 0.6 exp(-0.3 layer). Values keep their full width d. The `qk` chain and the core receive 2H query
    heads and 2G key heads of width d/2: the first halves of all heads, then the second halves. Tried in Parameter Golf
    #675. Raises `RecipeError` if the head width is odd.
    """

    roles = {"lambda_vectors": "scale"}
    splits_per_head = 2
    core_splits_per_head = 2

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
        require_even_heads(context.dim, heads)
        super().__init__(
            context,
            heads=heads,
            kv_heads=kv_heads,
            core=core,
            qk=qk,
            value=value,
            post_attention=post_attention,
            linear=linear,
        )
        self.lambda_vectors = nn.Parameter(0.1 * torch.randn(4, context.dim // heads // 2))
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * context.layer)

    def lambda_(self) -> Tensor:
        """Weight l of the second map, a float32 scalar."""
        a1, b1, a2, b2 = self.lambda_vectors.float()
        return (a1 * b1).sum().exp() - (a2 * b2).sum().exp() + self.lambda_init

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads * d) -> (B, T, 2 * heads, d/2): the first halves of all heads, then the second halves."""
        return x.unflatten(-1, (heads, 2, -1)).transpose(2, 3).flatten(2, 3)

    def difference(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        """(A1 - l A2) v, (B, T, H, d)."""
        first, second = self.core(q, k, torch.cat([v, v], 2), context).chunk(2, 2)
        return first - self.lambda_().to(first.dtype) * second

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        return (1 - self.lambda_init) * rms_norm(self.difference(q, k, v, context))


@register
class SplitValueDifferentialAttention(Attention):
    """y_h = [A1 v1 - l_h A2 v2, A1 v1 + l_h A2 v2]; the softmax maps A1 and A2 are those of the halves of head h.

    v1 and v2 are the halves of the values, so that each map reads one of them, and l (H,) is initialized to 0.5. The
    `qk` chain receives whole heads, the core twice as many of width d/2, with the softmax scale 1/sqrt(d/2): first
    halves before second halves. Parameter Golf #640, where it cost 0.022 bits per byte. It is another operator than
    `DifferentialAttention`. Raises `RecipeError` if the head width is odd.
    """

    roles = {"weight": "scale"}
    core_splits_per_head = 2

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
        require_even_heads(context.dim, heads)
        super().__init__(
            context,
            heads=heads,
            kv_heads=kv_heads,
            core=core,
            qk=qk,
            value=value,
            post_attention=post_attention,
            linear=linear,
        )
        self.weight = nn.Parameter(torch.full((heads,), 0.5))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext) -> Tensor:
        first, second = self.core(_halves(q), _halves(k), _halves(v), context).chunk(2, 2)
        second = self.weight[:, None].to(first.dtype) * second
        return torch.cat([first - second, first + second], -1)


def require_even_heads(dim: int, heads: int) -> None:
    """Raise `RecipeError` if the head width is odd."""
    width = dim // max(heads, 1)
    if width % 2:
        raise RecipeError(f"the head width must be even, got {width} ({heads} heads)", where="mixer.heads")


def _halves(x: Tensor) -> Tensor:
    """(B, T, n, d) -> (B, T, 2n, d/2): the first halves of all heads, then the second halves."""
    return torch.cat(x.chunk(2, -1), 2)
