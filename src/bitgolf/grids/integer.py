"""Uniform integer grids. The same object rounds in the codecs and in fake quantization."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from bitgolf.config.ranges import LARGE, IntegerBits, Range
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.grids.scales import MIN_STEP, Float16Scale, ScaleFormat


@register
class IntGrid:
    """Codes -Q..Q, with Q = 2**(bits - 1) - 1, times a step.

    full_range: also use the code -Q - 1, so that the grid is not symmetric.
    min_step: the smallest step. Before SDClip (Parameter Golf #1394) the challenge's records used 1/Q: all rows with a
    clip below 1 then have the step 1/Q.
    multiple: use only the multiples of this number in -Q..Q. With 8 bits and 4 this is the "step-rounded int6" of
    Parameter Golf #39. That code rounded twice, to the fine grid first, and so sometimes not to the nearest code.
    scales: the format in which steps are stored.
    """

    def __init__(
        self,
        *,
        bits: IntegerBits = 6,
        full_range: bool = False,
        min_step: Annotated[float, Range(MIN_STEP, LARGE)] = MIN_STEP,
        multiple: Annotated[int, Range(1, 127)] = 1,
        scales: Spec[ScaleFormat] = part(Float16Scale),
    ) -> None:
        if not 2 <= bits <= 8:
            raise RecipeError(f"bits must be 2 to 8, got {bits}", where="IntGrid.bits")
        if not min_step >= MIN_STEP:
            raise RecipeError(f"min_step must be at least {MIN_STEP}, got {min_step}", where="IntGrid.min_step")
        self.full_qmax = 2 ** (bits - 1) - 1
        if not 1 <= multiple <= self.full_qmax:
            message = f"multiple must be 1 to {self.full_qmax} (the largest code), got {multiple}"
            raise RecipeError(message, where="IntGrid.multiple")
        self.multiple = multiple
        self.qmax = self.full_qmax // multiple * multiple
        self.qmin = -((self.full_qmax + int(full_range)) // multiple * multiple)
        self.min_step, self.scales = min_step, scales()

    @property
    def settings(self) -> tuple[object, ...]:
        """The values that define the grid: grids with equal settings are equal."""
        return self.full_qmax, self.qmin, self.multiple, self.min_step, self.scales

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntGrid) and type(self) is type(other) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.settings)

    def steps(self, clip: Tensor) -> Tensor:
        """Return the float32 steps that map `clip` (any shape, >= 0) to Q, rounded to values that can be stored.

        A step that is too large to be stored becomes infinite; codecs reject it.
        """
        return self.scales.round(self.exact_steps(clip))

    def exact_steps(self, clip: Tensor) -> Tensor:
        """Return the float32 steps that map `clip` (any shape, >= 0) to Q, before they are rounded for storage."""
        return (clip.float() / self.full_qmax).clamp_min(self.min_step)

    def quantize(self, w: Tensor, step: Tensor) -> Tensor:
        """Return the int8 codes of `w`; `step` is broadcast against it. Ties go to the even code (multiple)."""
        codes = (w.float() / (step * self.multiple)).round() * self.multiple
        return codes.clamp(self.qmin, self.qmax).to(torch.int8)

    def contains(self, codes: Tensor) -> bool:
        """Return whether all of these int8 values are codes of this grid."""
        return not bool(((codes < self.qmin) | (codes > self.qmax) | (codes % self.multiple != 0)).any())

    def dequantize(self, codes: Tensor, step: Tensor) -> Tensor:
        """Return the float32 weights of `codes`; `step` is broadcast against them."""
        return codes.float() * step

    def fake_quantize(self, w: Tensor, step: Tensor) -> Tensor:
        """Return `w` quantized and dequantized, float32, bit-identical to the decoded weights.

        The gradient is zero; callers add a straight-through estimator.
        """
        return self.dequantize(self.quantize(w, step), step)
