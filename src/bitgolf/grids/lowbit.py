"""Ternary, binary, 4-bit and 8-bit float weights, for quantization-aware training and for storage.

Ternary and binary weights are grouped along the flattened matrix. Each group has one scale, the mean magnitude of its
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
"""The largest finite value of e4m3 (arXiv 2209.05433), a format without infinity."""


@dataclass(frozen=True)
class GroupGrid(ABC):
    """A grid with one scale per group of `group_size` weights, for tensors of any shape.

    In the methods n is the number of weights, and G = ceil(n / group_size) the number of groups.
    """

    group_size: int

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise RecipeError(f"group_size must be at least 1, got {self.group_size}", where="group_size")

    @abstractmethod
    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        """Return the int8 codes of `w`; `scale` is broadcast against it."""

    def group_count(self, n: int) -> int:
        """Return the number of groups G of n weights."""
        return -(-n // self.group_size)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the codes of a tensor of this shape: the same, unless rows are padded."""
        return shape

    def scales(self, w: Tensor) -> Tensor:
        """Return the mean magnitude of each group, float32 (G,), at least `MIN_SCALE`."""
        return (self._sums(w.float().abs()) / self._sizes(w)).clamp_min(MIN_SCALE)

    def stored_scales(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return the scales to store, float32 (G,), so that the decoded weights have the mean magnitudes `scales`.

        Codes of zero reduce the mean magnitude. Without this correction, quantizing decoded weights again would scale
        them down each time.
        """
        nonzero = self._sums(codes.float().abs())
        return scales * self._sizes(codes) / nonzero.clamp_min(1)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return the float32 weights of `codes` (any shape)."""
        return codes.float() * self._broadcast_scales(scales, codes)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """Return `w` quantized and dequantized with unrounded scales: float32, without gradient."""
        w = w.detach().float()
        scales = self.scales(w)
        return self.dequantize(self.quantize(w, self._broadcast_scales(scales, w)), scales)

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the int8 codes, in the shape of `w`, and the `stored_scales`, float32 (G,)."""
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
    """Codes -1, 0 and 1: w / scale, rounded (ties to zero) and clipped. At most 1.6 bits per weight."""

    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        return (w.float() / scale).round().clamp(-1, 1).to(torch.int8)


class PaddedTernaryGrid(TernaryGrid):
    """Ternary groups within rows, as #640 stores them: each row is padded with zeros to whole groups.

    The padding counts in the means. Codes are computed with scales that are rounded to float16 before, and the decoder
    divides each scale by the mean magnitude of the group's codes.
    """

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        columns = shape[-1] if shape else 1
        return *shape[:-1], self.group_count(columns) * self.group_size

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        rows = F.pad(w.float().reshape(w.shape or (1,)), (0, self.stored_shape(w.shape)[-1] - (w.shape or (1,))[-1]))
        scales = self.scales(rows).half().float()
        codes = self.quantize(rows, self._broadcast_scales(scales, rows).clamp_min(MIN_SCALE))
        return codes, scales

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        return super().dequantize(codes, self.stored_scales(codes, scales))


class BinaryGrid(GroupGrid):
    """Codes -1 and 1: the sign of the weight, with 1 for zero."""

    def quantize(self, w: Tensor, scale: Tensor) -> Tensor:
        return torch.where(w >= 0, 1, -1).to(torch.int8)


@dataclass(frozen=True)
class Float8Grid:
    """8-bit floats (e4m3) without a scale: 3 mantissa bits, spacing 2**-9 below 2**-6, largest magnitude 448."""

    def quantize(self, w: Tensor) -> Tensor:
        """Return `w` as float8_e4m3fn; larger magnitudes than 448 are clipped."""
        return w.float().clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)

    def fake_quantize(self, w: Tensor) -> Tensor:
        """Return `w` rounded to the grid: float32, without gradient."""
        return self.quantize(w.detach()).float()


@dataclass(frozen=True)
class Int4Grid:
    """Codes -7 to 7 times a step per row: its largest magnitude, at least `MIN_SCALE`, divided by 7."""

    def fake_quantize(self, w: Tensor) -> Tensor:
        """Return `w` (…, C) quantized and dequantized with unrounded steps: float32, without gradient."""
        w = w.detach().float()
        steps = w.abs().amax(-1, keepdim=True).clamp_min(MIN_SCALE) / 7
        return (w / steps).round().clamp(-7, 7) * steps
