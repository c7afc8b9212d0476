"""Rotary positions (RoPE)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.model.attention.rope_scaling import RoPEScaling, frequency_exponents
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import QKPart


def cos_sin_table(angles: Tensor, kind: torch.dtype) -> Tensor:
    """cos and sin of angles (…, F), rounded to float32 and then to `kind`: (2, …, F)."""
    return torch.stack([angles.cos(), angles.sin()]).float().to(kind)


@torch.library.custom_op("bitgolf::rotary_table", mutates_args=())
def cos_sin_table_op(angles: Tensor, kind: torch.dtype) -> Tensor:
    """`cos_sin_table` as an operator, for graphs that are compiled.

    A compiler that sees cos and sin computes them again in every kernel that rotates, for every head and also for the
    lanes that are not rotated, instead of reading a small table.
    """
    return cos_sin_table(angles, kind)


@cos_sin_table_op.register_fake
def _(angles: Tensor, kind: torch.dtype) -> Tensor:
    return angles.new_empty((2, *angles.shape), dtype=kind)


@register
class RoPE(QKPart):
    """Rotary positions (arXiv 2104.09864) on the first `dims` of each head, 0 for all of them.

    Half-split pairs (i, i + dims/2), angle position * base^(-2i/dims), or as a `scaling` makes the frequencies. The
    scaling of the forward context, where it has one, takes the place of the part's own.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        base: float = 10000.0,
        dims: int = 0,
        scaling: Spec[RoPEScaling] | None = None,
    ) -> None:
        super().__init__()
        width = dims or context.dim // context.heads
        if width % 2 or width > context.dim // context.heads:
            raise RecipeError(f"cannot rotate {width} of {context.dim // context.heads} dimensions", where="RoPE.dims")
        self.base, self.width = base, width
        self.scaling = scaling() if scaling else None

    def frequencies(self, device: torch.device, scaling: RoPEScaling | None = None) -> Tensor:
        """Radians per position of each pair, (dims/2,) in float32, with this scaling or else the part's own."""
        scaling = scaling or self.scaling
        if scaling:
            return scaling.frequencies(self.base, self.width, device)
        return 1.0 / self.base ** frequency_exponents(self.width, device)

    def cos_sin(self, context: ForwardContext, kind: torch.dtype = torch.float32) -> Tensor:
        """cos and sin, (2, T, 1, dims/2) or (2, B, T, 1, dims/2) in this type."""
        angles = context.rotary_angles(self.frequencies(context.ids.device, context.rope_scaling))[..., None, :]
        return (cos_sin_table_op if torch.compiler.is_compiling() else cos_sin_table)(angles, kind)

    def cache_key(self, context: ForwardContext, kind: torch.dtype) -> tuple[object, ...]:
        """Parts with equal keys share one table in a forward."""
        scaling = context.rope_scaling or self.scaling
        return "rope", self.base, self.width, scaling.cache_key if scaling else None, kind

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.width // 2
        a, b, rest = x.split([half, half, x.shape[-1] - self.width], -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], -1)

    def forward(self, q: Tensor, k: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        cos, sin = context.cached(self.cache_key(context, q.dtype), lambda: self.cos_sin(context, q.dtype))
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)
