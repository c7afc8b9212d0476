"""Storage formats of the two factors of a low-rank correction: A (R, r) and B (r, C).

Source of the formats: openai/parameter-golf, pull request 1797.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.ranges import IntegerBits, Range, Width
from bitgolf.config.registry import register
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import ArraySpecs
from bitgolf.quantize.codecs.gptq import RoundToGrid

FACTOR_ARRAYS = ("left", "right", "left_scales", "right_scales")
FLOAT16_MAX = 65504.0

SolveFactor = Callable[[Tensor, Tensor, RoundToGrid], Tensor]
"""(values (R, C), steps (R, C), rounding function) -> int8 codes (R, C): `GPTQ.quantize` of one matrix."""


class LowRankFactors(ABC):
    """A storage format of A (R, r) and B (r, C).

    B is stored transposed, (C, r), so that the context model detects an all-zero factor after the r symbols of one row.
    """

    @abstractmethod
    def arrays(self, rows: int, columns: int, rank: int) -> ArraySpecs:
        """Name -> (dtype, two-dimensional shape), for some or all of `FACTOR_ARRAYS`. All zeros mean no correction."""

    @abstractmethod
    def bits(self, rows: int, columns: int, rank: int) -> int:
        """Bits of the factors and their scales, before entropy coding."""

    @abstractmethod
    def quantize(self, left: Tensor, right: Tensor, solve: SolveFactor | None = None) -> EncodedTensor:
        """The code of float A (R, r) and B (r, C). Values beyond the range are clamped; the caller measures the effect.

        solve: quantizes B with error feedback between its columns; None rounds to the nearest.
        """

    @abstractmethod
    def dequantize(self, code: EncodedTensor) -> tuple[Tensor, Tensor]:
        """float32 A (R, r) and B (r, C). Raises `CorruptFileError` for a code that `quantize` never writes."""


class BlockIntFormat(NamedTuple):
    """Integers `qmin`..`qmax` with a float16 scale for each block of `block_size` entries of the flattened factor.

    The scale maps the largest magnitude of a block to `max_code` steps.
    """

    qmin: int
    qmax: int
    max_code: float
    block_size: int

    def quantize(self, x: Tensor, solve: SolveFactor | None = None) -> tuple[Tensor, Tensor]:
        """int8 codes in the shape of `x`, and float16 scales (blocks, 1). Codes refer to the rounded scales."""
        blocks = x.float().reshape(-1, self.block_size)
        scales = (blocks.abs().amax(1, keepdim=True) / self.max_code).clamp_max(FLOAT16_MAX).half()
        step = scales.float().expand_as(blocks).reshape(x.shape)
        return (solve(x.float(), step, self._nearest) if solve else self._nearest(x, step)), scales

    def _nearest(self, x: Tensor, step: Tensor) -> Tensor:
        return torch.where(step > 0, x.float() / step, 0.0).round().clamp(self.qmin, self.qmax).to(torch.int8)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """float32 values in the shape of `codes`. Raises `CorruptFileError` for codes or scales out of range."""
        if (codes < self.qmin).any() or (codes > self.qmax).any():
            raise CorruptFileError(
                f"codes {codes.min()}..{codes.max()} of a low-rank factor lie outside {self.qmin}..{self.qmax}"
            )
        if not ((scales >= 0) & scales.isfinite()).all():
            raise CorruptFileError(f"a scale of a low-rank factor is negative or not finite ({scales.min():g})")
        return (codes.float().reshape(-1, self.block_size) * scales.float()).reshape(codes.shape)


class IntFactors(LowRankFactors):
    """Both factors as integers with float16 scales."""

    @abstractmethod
    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        """The formats of A (R, r) and of B (r, C). The block sizes divide the numbers of entries."""

    def arrays(self, rows: int, columns: int, rank: int) -> ArraySpecs:
        forms = self.formats(rows, columns, rank)
        int8, half, sizes = np.dtype(np.int8), np.dtype(np.float16), (rows * rank, columns * rank)
        scales = [(half, (size // form.block_size, 1)) for size, form in zip(sizes, forms, strict=True)]
        return dict(zip(FACTOR_ARRAYS, [(int8, (rows, rank)), (int8, (columns, rank)), *scales], strict=True))

    def bits(self, rows: int, columns: int, rank: int) -> int:
        forms, sizes = self.formats(rows, columns, rank), (rows * rank, columns * rank)
        return sum(
            size * (form.qmax - form.qmin).bit_length() + size // form.block_size * 16
            for size, form in zip(sizes, forms, strict=True)
        )

    def quantize(self, left: Tensor, right: Tensor, solve: SolveFactor | None = None) -> EncodedTensor:
        forms = self.formats(len(left), right.shape[1], len(right))
        (a, a_scales), (b, b_scales) = forms[0].quantize(left), forms[1].quantize(right, solve)
        return {
            name: x.numpy() for name, x in zip(FACTOR_ARRAYS, (a, b.T.contiguous(), a_scales, b_scales), strict=True)
        }

    def dequantize(self, code: EncodedTensor) -> tuple[Tensor, Tensor]:
        left, right, left_scales, right_scales = (torch.from_numpy(code[name]) for name in FACTOR_ARRAYS)
        forms = self.formats(len(left), *right.shape)
        return forms[0].dequantize(left, left_scales), forms[1].dequantize(right.T.contiguous(), right_scales)


@register
class PerRowFactors(IntFactors):
    """Symmetric integers of `bits` bits, with one scale for each row of A (R, r) and each row of B (r, C)."""

    def __init__(self, *, bits: IntegerBits = 4) -> None:
        if not 2 <= bits <= 8:
            raise RecipeError(f"bits must be 2 to 8, got {bits}", where="PerRowFactors.bits")
        self.top = 2 ** (bits - 1) - 1

    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        return BlockIntFormat(-self.top, self.top, self.top, rank), BlockIntFormat(
            -self.top, self.top, self.top, columns
        )


@register
class AsymmetricFactors(IntFactors):
    """A in 2 bits (-2..1, one scale), B in 4 bits (-8..7, one scale for each `group_size` entries in row-major order).

    max_code: largest magnitude of A in steps, before clamping. If `group_size` does not divide the number of entries of
    B, both factors are stored as `PerRowFactors(bits=4)`.
    """

    def __init__(self, *, group_size: Width = 64, max_code: Annotated[float, Range(1, 127)] = 1.5) -> None:
        if group_size < 1:
            raise RecipeError(f"group_size must be at least 1, got {group_size}", where="AsymmetricFactors.group_size")
        if not max_code >= 1:
            raise RecipeError(f"max_code must be at least 1 step, got {max_code}", where="AsymmetricFactors.max_code")
        self.group_size, self.max_code, self.fallback = group_size, max_code, PerRowFactors(bits=4)

    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        if columns * rank % self.group_size:
            return self.fallback.formats(rows, columns, rank)
        return BlockIntFormat(-2, 1, self.max_code, rows * rank), BlockIntFormat(-8, 7, 7.5, self.group_size)
