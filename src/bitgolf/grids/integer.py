"""Uniform symmetric integers: one object rounds for the exporter and for fake quantization."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.errors import RecipeError
from bitgolf.spec import register

STEP_FLOOR = 2.0**-18
"""The smallest step. Steps are stored as float16: from here on they round by less than 1 %, half of it would be lost at
2**-24 and all below. What a smaller step would have kept is an error of at most 2e-6 in a weight."""


@register
class IntGrid:
    """Codes -Q..Q with Q = 2**(bits - 1) - 1, times a step; `full_range` adds -Q - 1 (and loses sign symmetry).

    `floor` is the smallest step. 1/Q is the floor that the challenge's records had until SDClip: rows whose clip is
    below 1 then all share the step 1/Q, whatever their clip (spec, 1.1).
    """

    def __init__(self, *, bits: int = 6, full_range: bool = False, floor: float = STEP_FLOOR) -> None:
        if not 2 <= bits <= 8:
            raise RecipeError(f"an integer grid has 2 to 8 bits, not {bits}", place="IntGrid.bits")
        if not floor >= STEP_FLOOR:
            raise RecipeError(f"a step below {STEP_FLOOR} is lost in float16, got {floor}", place="IntGrid.floor")
        self.top = 2 ** (bits - 1) - 1
        self.low = -self.top - int(full_range)
        self.floor = floor

    def steps(self, clip: Tensor) -> Tensor:
        """float16 steps that map `clip` (any shape, >= 0) to Q: rounded as stored, before any code is rounded.

        A step beyond float16 (a clip above 65504 Q) comes out infinite: the exporter refuses it.
        """
        return (clip.float() / self.top).clamp_min(self.floor).half()

    def round(self, w: Tensor, step: Tensor) -> Tensor:
        """int8 codes of `w`; `step` is broadcast against it. Ties go to the even code."""
        return (w.float() / step.float()).round().clamp(self.low, self.top).to(torch.int8)

    def expand(self, codes: Tensor, step: Tensor) -> Tensor:
        """The float32 weights that `codes` stand for."""
        return codes.float() * step.float()

    def fake(self, w: Tensor, step: Tensor) -> Tensor:
        """`w` as it will be read back, bit for bit. No gradient: a straight-through estimator is the trainer's."""
        return self.expand(self.round(w, step), step)
