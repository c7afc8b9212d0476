"""Ternary, binary and 8-bit float weights: formats that a model keeps while it is scored, and codecs store.

Ternary and binary weights come in groups along the flattened matrix, each with one scale, the mean magnitude of its
weights (BitNet b1.58, arXiv 2402.17764; Parameter Golf #640, #641). The last group may be shorter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.errors import RecipeError

MIN_SCALE = 1e-8
FLOAT8_MAX = 448.0
"""The largest magnitude of e4m3 (arXiv 2209.05433), which has no infinity."""


@dataclass(frozen=True)
class GroupGrid(ABC):
    """Codes times the scale of their group, for tensors of any shape. Below, n = elements, G = ceil(n / group)."""

    group_size: int

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise RecipeError(f"a group has at least one weight, not {self.group_size}", where="group_size")

    @abstractmethod
    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        """int8 codes of `w`; `scale` is broadcast against it."""

    def group_count(self, n: int) -> int:
        return -(-n // self.group_size)

    def scales(self, w: Tensor) -> Tensor:
        """float32 (G,): the mean magnitude of each group, at least `MIN_SCALE`."""
        return (self._sums(w.float().abs()) / self._sizes(w)).clamp_min(MIN_SCALE)

    def stored_scales(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The scales with which `codes` have the mean magnitudes `scales`, so that reading weights back finds those.

        Zeros among the codes shrink the mean magnitude; without this, each reading would shrink the weights again.
        """
        used = self._sums(codes.float().abs())
        return scales * self._sizes(codes) / used.clamp_min(1)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The float32 weights that `codes` (any shape) stand for."""
        return codes.float() * self._broadcast_scales(scales, codes)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """`w` as its codes and unrounded scales stand for it, float32, without gradient."""
        w = w.detach().float()
        scales = self.scales(w)
        return self.dequantize(self.quantize(w, self._broadcast_scales(scales, w)), scales)

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(int8 codes in the shape of `w`, float32 scales (G,) as `stored_scales` has them)."""
        scales = self.scales(w)
        codes = self.quantize(w, self._broadcast_scales(scales, w))
        return codes, self.stored_scales(codes, scales)

    def _broadcast_scales(self, scales: Tensor, like: Tensor) -> Tensor:
        return scales.repeat_interleave(self.group_size)[: like.numel()].reshape(like.shape)

    def _sums(self, x: Tensor) -> Tensor:
        return F.pad(x.flatten(), (0, -x.numel() % self.group_size)).view(-1, self.group_size).sum(1)

    def _sizes(self, x: Tensor) -> Tensor:
        firsts = self.group_size * torch.arange(self.group_count(x.numel()), device=x.device)
        return (x.numel() - firsts).clamp_max(self.group_size)


class TernaryGrid(GroupGrid):
    """-1, 0 or 1 times the scale: w / scale rounded (ties go to zero) and clipped. At most 1.6 bits a weight."""

    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        return (w.float() / scale).round().clamp(-1, 1).to(torch.int8)


class BinaryGrid(GroupGrid):
    """-1 or 1 times the scale: the sign; zero counts as positive."""

    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        return torch.where(w >= 0, 1, -1).to(torch.int8)


@dataclass(frozen=True)
class Float8Grid:
    """8-bit floats, e4m3, without a scale: 3 bits of mantissa, steps of 2**-9 below 2**-6, nothing beyond 448."""

    def quantize(self, w: Tensor) -> Tensor:
        return w.float().clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """`w` as it will be read back, float32, without gradient."""
        return self.quantize(w.detach()).float()
