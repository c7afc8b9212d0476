"""How the two thin factors of a low-rank repair are stored.

Source of the packings: openai/parameter-golf, pull request 1797 (spec, 3.1). Below, A is (R, r) and B is (r, C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack.streams import EncodedTensor
from bitgolf.quantize.codecs.codec import ArraySpecs
from bitgolf.quantize.codecs.gptq import RoundToGrid

FACTOR_ARRAYS = ("left", "right", "left_scales", "right_scales")
FLOAT16_MAX = 65504.0  # of float16

SolveFactor = Callable[[Tensor, Tensor, RoundToGrid], Tensor]
"""(values (R, C), the step of each, how they are rounded) -> int8 codes (R, C): `GPTQ.quantize` for one matrix."""


class LowRankFactors(ABC):
    """How A (R, r) and B (r, C) are stored. B lies transposed, so that a walk knows a matrix of zeros after r symbols."""

    @abstractmethod
    def arrays(self, rows: int, columns: int, rank: int) -> ArraySpecs:
        """Matrices, some or all of `FACTOR_ARRAYS`. All zeros stand for no repair."""

    @abstractmethod
    def quantize(self, left: Tensor, right: Tensor, solve: SolveFactor | None = None) -> EncodedTensor:
        """The code of float A and B. What it cannot hold is cut off: whether the repair still helps is measured.

        `solve`: the columns of B answer for one another's rounding.
        """

    @abstractmethod
    def dequantize(self, code: EncodedTensor) -> tuple[Tensor, Tensor]:
        """float32 A and B. Raises `CorruptFileError` for what `quantize` never makes."""


class BlockIntFormat(NamedTuple):
    """Integers `qmin`..`qmax`; each `block_size` entries of the flattened factor share a scale, which maps their largest to `max_code`."""

    qmin: int
    qmax: int
    max_code: float
    block_size: int

    def quantize(self, x: Tensor, solve: SolveFactor | None = None) -> tuple[Tensor, Tensor]:
        """int8 codes in the shape of `x`, and float16 scales (blocks, 1), rounded before any code is."""
        blocks = x.float().reshape(-1, self.block_size)
        scales = (blocks.abs().amax(1, keepdim=True) / self.max_code).clamp_max(FLOAT16_MAX).half()
        step = scales.float().expand_as(blocks).reshape(x.shape)
        return (solve(x.float(), step, self._nearest) if solve else self._nearest(x, step)), scales

    def _nearest(self, x: Tensor, step: Tensor) -> Tensor:
        return torch.where(step > 0, x.float() / step, 0.0).round().clamp(self.qmin, self.qmax).to(torch.int8)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        if (codes < self.qmin).any() or (codes > self.qmax).any():
            raise CorruptFileError(f"a factor's code lies outside {self.qmin}..{self.qmax}")
        if not ((scales >= 0) & scales.isfinite()).all():
            raise CorruptFileError("a factor's scale is negative or not finite")
        return (codes.float().reshape(-1, self.block_size) * scales.float()).reshape(codes.shape)


class IntFactors(LowRankFactors):
    @abstractmethod
    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        """Of A and of B; their blocks divide them."""

    def arrays(self, rows: int, columns: int, rank: int) -> ArraySpecs:
        forms = self.formats(rows, columns, rank)
        int8, half, sizes = np.dtype(np.int8), np.dtype(np.float16), (rows * rank, columns * rank)
        scales = [(half, (size // form.block_size, 1)) for size, form in zip(sizes, forms, strict=True)]
        return dict(zip(FACTOR_ARRAYS, [(int8, (rows, rank)), (int8, (columns, rank)), *scales], strict=True))

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
    """Symmetric integers of `bits` bits with a scale for each row of A and each row of B."""

    def __init__(self, *, bits: int = 4) -> None:
        if not 2 <= bits <= 8:
            raise RecipeError(f"a factor has 2 to 8 bits, not {bits}", where="PerRowFactors.bits")
        self.top = 2 ** (bits - 1) - 1

    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        return BlockIntFormat(-self.top, self.top, self.top, rank), BlockIntFormat(
            -self.top, self.top, self.top, columns
        )


@register
class AsymmetricFactors(IntFactors):
    """A in 2 bits (-2..1, one scale), B in 4 (-8..7, a scale for each `group_size` of its entries, row after row).

    peak: how many steps of A its largest entry is. Where the group does not divide B: `PerRowFactors` of 4 bits.
    """

    def __init__(self, *, group_size: int = 64, max_code: float = 1.5) -> None:
        if group_size < 1:
            raise RecipeError(f"a group has at least one entry, not {group_size}", where="AsymmetricFactors.group_size")
        if not max_code >= 1:
            raise RecipeError(
                f"the largest entry is at least one step, not {max_code}", where="AsymmetricFactors.max_code"
            )
        self.group_size, self.max_code, self.fallback = group_size, max_code, PerRowFactors(bits=4)

    def formats(self, rows: int, columns: int, rank: int) -> tuple[BlockIntFormat, BlockIntFormat]:
        if columns * rank % self.group_size:
            return self.fallback.formats(rows, columns, rank)
        return BlockIntFormat(-2, 1, self.max_code, rows * rank), BlockIntFormat(-8, 7, 7.5, self.group_size)
