"""Rotary position embeddings (RoPE)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Positive, WidthOrZero
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope_scaling import RoPEScaling, frequency_exponents
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


def cos_sin_table(angles: Tensor, kind: torch.dtype) -> Tensor:
    """cos and sin of angles (…, F), rounded to float32 and then to dtype `kind`: (2, …, F)."""
    return torch.stack([angles.cos(), angles.sin()]).float().to(kind)


@torch.library.custom_op("bitgolf::rotary_table", mutates_args=())
def cos_sin_table_op(angles: Tensor, kind: torch.dtype) -> Tensor:
    """`cos_sin_table` as a custom operator, for compiled graphs.

    Otherwise the compiler would inline cos and sin: every kernel that rotates would compute them again for every head,
    and also for the dimensions that are not rotated, instead of reading a small table.
    """
    return cos_sin_table(angles, kind)


@cos_sin_table_op.register_fake
def _(angles: Tensor, kind: torch.dtype) -> Tensor:
    return angles.new_empty((2, *angles.shape), dtype=kind)


@register
class RoPE(QKPart):
    """Rotary position embeddings (arXiv 2104.09864) on the first `dims` dimensions of each head; 0 means all.

    Dimensions i and i + dims/2 form a pair and are rotated by position * base^(-2i/dims), or with the frequencies of
    `scaling`. `ForwardContext.rope_scaling`, if set, replaces `scaling`. Raises `RecipeError` if `dims` is odd or
    larger than the head width.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        base: Positive = 10000.0,
        dims: WidthOrZero = 0,
        scaling: Spec[RoPEScaling] | None = None,
    ) -> None:
        super().__init__()
        width = dims or context.dim // context.heads
        if width % 2 or width > context.dim // context.heads:
            limit = context.dim // context.heads
            raise RecipeError(
                f"must rotate an even number of at most {limit} dimensions, got {width}", where="RoPE.dims"
            )
        self.base, self.width = base, width
        self.scaling = scaling() if scaling else None

    def frequencies(self, device: torch.device, scaling: RoPEScaling | None = None) -> Tensor:
        """Frequency of each pair in radians per position, float32 (dims/2,). `scaling` replaces the part's own."""
        scaling = scaling or self.scaling
        if scaling:
            return scaling.frequencies(self.base, self.width, device)
        return 1.0 / self.base ** frequency_exponents(self.width, device)

    def cos_sin(self, context: ForwardContext, kind: torch.dtype = torch.float32) -> Tensor:
        """cos and sin of the angles, (2, T, 1, dims/2) or (2, B, T, 1, dims/2), with dtype `kind`."""
        angles = context.rotary_angles(self.frequencies(context.ids.device, context.rope_scaling))[..., None, :]
        return (cos_sin_table_op if torch.compiler.is_compiling() else cos_sin_table)(angles, kind)

    def cache_key(self, context: ForwardContext, kind: torch.dtype) -> tuple[object, ...]:
        """Key of the table in `ForwardContext.cached`. Parts with equal keys share one table."""
        scaling = context.rope_scaling or self.scaling
        return "rope", self.base, self.width, scaling.cache_key if scaling else None, kind

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first `width` dimensions of queries or keys, (B, T, heads, d)."""
        half = self.width // 2
        a, b, rest = x.split([half, half, x.shape[-1] - self.width], -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], -1)

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        cos, sin = context.cached(self.cache_key(context, q.dtype), lambda: self.cos_sin(context, q.dtype))
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)
