"""Rotary positions, and how their frequencies are stretched for longer texts."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.spec import Place, Spec, register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import QKPart


def plain_table(angles: Tensor, kind: torch.dtype) -> Tensor:
    """cos and sin of angles (…, F), rounded to float32 and then to `kind`: (2, …, F)."""
    return torch.stack([angles.cos(), angles.sin()]).float().to(kind)


@torch.library.custom_op("bitgolf::rotary_table", mutates_args=())
def rotary_table(angles: Tensor, kind: torch.dtype) -> Tensor:
    """`plain_table` as an operator, for graphs that are compiled.

    A compiler that sees cos and sin computes them again in every kernel that rotates, for every head and also for the
    lanes that are not rotated, instead of reading a small table.
    """
    return plain_table(angles, kind)


@rotary_table.register_fake
def _(angles: Tensor, kind: torch.dtype) -> Tensor:
    return angles.new_empty((2, *angles.shape), dtype=kind)


def exponents(width: int, device: torch.device | None = None) -> Tensor:
    """2i / width for the pairs i, (width/2,) in float32."""
    return torch.arange(0, width, 2, device=device, dtype=torch.float32) / width


class Scaling:
    """Inverse frequencies for texts of `length` tokens, where a plain base would suit `reference`: plain if no longer.

    Both lengths are the recipe's: frequencies that followed the text at hand would change between training and scoring.
    """

    def __init__(self, *, reference: int = 1024, length: int = 2048) -> None:
        if min(reference, length) < 1:
            raise RecipeError(f"lengths are at least 1, not {reference} and {length}", place=type(self).__name__)
        self.stretch = max(1.0, length / reference)

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        """Radians per position of each pair, (width/2,) in float32."""
        raise NotImplementedError


@register
class Ntk(Scaling):
    """A larger base, so that the slowest pair turns `stretch` times slower ("NTK-aware", arXiv 2309.00071, section 3.1).

    base * stretch^(width / (width - 2)). Parameter Golf #164 to #1512: on during training, at reference 1024.
    """

    def base(self, base: float, width: int) -> float:
        """The effective base; a width of 2 has one pair, which turns at 1 with any base."""
        return base * self.stretch ** (width / max(width - 2, 1))

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        return 1.0 / self.base(base, width) ** exponents(width, device)


@register
class Yarn(Scaling):
    """Fast pairs unchanged, slow ones up to `stretch` times slower (Parameter Golf #640, after arXiv 2309.00071).

    theta_i / (1 + ramp_i (stretch - 1)), ramp_i = clip((2i/width - 0.25) / 0.75, 0, 1). Without YaRN's temperature.
    """

    def frequencies(self, base: float, width: int, device: torch.device) -> Tensor:
        pair = exponents(width, device)
        ramp = ((pair - 0.25) / 0.75).clamp(0.0, 1.0)
        return 1.0 / base**pair / (1.0 + ramp * (self.stretch - 1.0))


@register
class Rope(QKPart):
    """Rotary positions (arXiv 2104.09864) on the first `dims` of each head, 0 for all of them.

    Half-split pairs (i, i + dims/2), angle position * base^(-2i/dims), or as a `scaling` makes the frequencies.
    """

    def __init__(
        self, at: Place, /, *, base: float = 10000.0, dims: int = 0, scaling: Spec[Scaling] | None = None
    ) -> None:
        super().__init__()
        width = dims or at.dim // at.heads
        if width % 2 or width > at.dim // at.heads:
            raise RecipeError(f"cannot rotate {width} of {at.dim // at.heads} dimensions", place="Rope.dims")
        self.base, self.width = base, width
        self.scaling = scaling() if scaling else None
        self.key = ("rope", base, width, repr(scaling))

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per position of each pair, (dims/2,) in float32."""
        if self.scaling:
            return self.scaling.frequencies(self.base, self.width, device)
        return 1.0 / self.base ** exponents(self.width, device)

    def table(self, bus: Bus, kind: torch.dtype = torch.float32) -> Tensor:
        """cos and sin, (2, T, 1, dims/2) or (2, B, T, 1, dims/2) in this type."""
        angles = bus.angles(self.frequencies(bus.ids.device))[..., None, :]
        return (rotary_table if torch.compiler.is_compiling() else plain_table)(angles, kind)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.width // 2
        a, b, rest = x.split([half, half, x.shape[-1] - self.width], -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], -1)

    def forward(self, q: Tensor, k: Tensor, bus: Bus) -> tuple[Tensor, Tensor]:
        cos, sin = bus.memo((*self.key, q.dtype), lambda: self.table(bus, q.dtype))
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)
