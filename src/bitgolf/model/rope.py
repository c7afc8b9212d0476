"""Rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.errors import RecipeError
from bitgolf.model.core import Bus
from bitgolf.model.sockets import QKPart
from bitgolf.spec import Place, register


@register
class Rope(QKPart):
    """Rotary positions (arXiv 2104.09864) on the first `dims` of each head, 0 for all of them.

    Half-split pairs (i, i + dims/2), angle position * base^(-2i/dims).
    """

    def __init__(self, at: Place, /, *, base: float = 10000.0, dims: int = 0) -> None:
        super().__init__()
        width = dims or at.dim // at.heads
        if width % 2 or width > at.dim // at.heads:
            raise RecipeError(f"cannot rotate {width} of {at.dim // at.heads} dimensions", place="Rope.dims")
        self.base, self.width = base, width

    def table(self, bus: Bus) -> tuple[Tensor, Tensor]:
        """cos and sin, (T, 1, dims/2) in float32."""
        positions = bus.positions.float()
        exponent = torch.arange(0, self.width, 2, device=positions.device, dtype=torch.float32) / self.width
        angle = torch.outer(positions, 1.0 / self.base**exponent)[:, None, :]
        return angle.cos(), angle.sin()

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.width // 2
        a, b, rest = x.split([half, half, x.shape[-1] - self.width], -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], -1)

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        cos, sin = bus.memo(("rope", self.base, self.width), lambda: self.table(bus))
        return self.rotate(q, cos.to(q.dtype), sin.to(q.dtype)), self.rotate(k, cos.to(k.dtype), sin.to(k.dtype))
