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
from bitgolf.errors import DamagedError, RecipeError
from bitgolf.pack.streams import Code
from bitgolf.quantize.codecs.codec import Arrays
from bitgolf.quantize.codecs.gptq import Nearest

NAMES = ("left", "right", "left_scales", "right_scales")
TOP_SCALE = 65504.0  # of float16

Solve = Callable[[Tensor, Tensor, Nearest], Tensor]
"""(values (R, C), the step of each, how they are rounded) -> int8 codes (R, C): `Gptq.codes` for one matrix."""


class Factors(ABC):
    """How A (R, r) and B (r, C) are stored. B lies transposed, so that a walk knows a matrix of zeros after r symbols."""

    @abstractmethod
    def arrays(self, rows: int, columns: int, rank: int) -> Arrays:
        """Matrices, some or all of `NAMES`. All zeros stand for no repair."""

    @abstractmethod
    def round(self, left: Tensor, right: Tensor, solve: Solve | None = None) -> Code:
        """The code of float A and B. What it cannot hold is cut off: whether the repair still helps is measured.

        `solve`: the columns of B answer for one another's rounding.
        """

    @abstractmethod
    def expand(self, code: Code) -> tuple[Tensor, Tensor]:
        """float32 A and B. Raises `DamagedError` for what `round` never makes."""


class Form(NamedTuple):
    """Integers `low`..`top`; each `block` entries of the flattened factor share a scale, which maps their largest to `peak`."""

    low: int
    top: int
    peak: float
    block: int

    def round(self, x: Tensor, solve: Solve | None = None) -> tuple[Tensor, Tensor]:
        """int8 codes in the shape of `x`, and float16 scales (blocks, 1), rounded before any code is."""
        blocks = x.float().reshape(-1, self.block)
        scales = (blocks.abs().amax(1, keepdim=True) / self.peak).clamp_max(TOP_SCALE).half()
        step = scales.float().expand_as(blocks).reshape(x.shape)
        return (solve(x.float(), step, self._nearest) if solve else self._nearest(x, step)), scales

    def _nearest(self, x: Tensor, step: Tensor) -> Tensor:
        return torch.where(step > 0, x.float() / step, 0.0).round().clamp(self.low, self.top).to(torch.int8)

    def expand(self, codes: Tensor, scales: Tensor) -> Tensor:
        if (codes < self.low).any() or (codes > self.top).any():
            raise DamagedError(f"a factor's code lies outside {self.low}..{self.top}")
        if not ((scales >= 0) & scales.isfinite()).all():
            raise DamagedError("a factor's scale is negative or not finite")
        return (codes.float().reshape(-1, self.block) * scales.float()).reshape(codes.shape)


class IntegerFactors(Factors):
    @abstractmethod
    def forms(self, rows: int, columns: int, rank: int) -> tuple[Form, Form]:
        """Of A and of B; their blocks divide them."""

    def arrays(self, rows: int, columns: int, rank: int) -> Arrays:
        forms = self.forms(rows, columns, rank)
        int8, half, sizes = np.dtype(np.int8), np.dtype(np.float16), (rows * rank, columns * rank)
        scales = [(half, (size // form.block, 1)) for size, form in zip(sizes, forms, strict=True)]
        return dict(zip(NAMES, [(int8, (rows, rank)), (int8, (columns, rank)), *scales], strict=True))

    def round(self, left: Tensor, right: Tensor, solve: Solve | None = None) -> Code:
        forms = self.forms(len(left), right.shape[1], len(right))
        (a, a_scales), (b, b_scales) = forms[0].round(left), forms[1].round(right, solve)
        return {name: x.numpy() for name, x in zip(NAMES, (a, b.T.contiguous(), a_scales, b_scales), strict=True)}

    def expand(self, code: Code) -> tuple[Tensor, Tensor]:
        left, right, left_scales, right_scales = (torch.from_numpy(code[name]) for name in NAMES)
        forms = self.forms(len(left), *right.shape)
        return forms[0].expand(left, left_scales), forms[1].expand(right.T.contiguous(), right_scales)


@register
class RowFactors(IntegerFactors):
    """Symmetric integers of `bits` bits with a scale for each row of A and each row of B."""

    def __init__(self, *, bits: int = 4) -> None:
        if not 2 <= bits <= 8:
            raise RecipeError(f"a factor has 2 to 8 bits, not {bits}", place="RowFactors.bits")
        self.top = 2 ** (bits - 1) - 1

    def forms(self, rows: int, columns: int, rank: int) -> tuple[Form, Form]:
        return Form(-self.top, self.top, self.top, rank), Form(-self.top, self.top, self.top, columns)


@register
class AsymmetricFactors(IntegerFactors):
    """A in 2 bits (-2..1, one scale), B in 4 (-8..7, a scale for each `group` of its entries, row after row).

    peak: how many steps of A its largest entry is. Where the group does not divide B: `RowFactors` of 4 bits.
    """

    def __init__(self, *, group: int = 64, peak: float = 1.5) -> None:
        if group < 1:
            raise RecipeError(f"a group has at least one entry, not {group}", place="AsymmetricFactors.group")
        if not peak >= 1:
            raise RecipeError(f"the largest entry is at least one step, not {peak}", place="AsymmetricFactors.peak")
        self.group, self.peak, self.otherwise = group, peak, RowFactors(bits=4)

    def forms(self, rows: int, columns: int, rank: int) -> tuple[Form, Form]:
        if columns * rank % self.group:
            return self.otherwise.forms(rows, columns, rank)
        return Form(-2, 1, self.peak, rows * rank), Form(-8, 7, 7.5, self.group)
