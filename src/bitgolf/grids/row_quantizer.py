"""Interface of quantizers with one step per row, shared by codecs and fake quantization."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from bitgolf.grids.clip import Clip
from bitgolf.grids.integer import IntGrid


class RowQuantizer(ABC):
    """An integer grid with one step per row.

    clip: the rule for the largest magnitude of a row, which determines its step. prune: fraction of all weights that is
    set to zero.
    """

    grid: IntGrid
    clip: Clip
    prune: float

    def row_steps(self, w: Tensor, hessian_diagonal: Tensor | None = None) -> Tensor:
        """Return the step of each row of `w` (R, C): float32 (R,).

        hessian_diagonal: float32 (C,); see `Clip.threshold`.
        """
        return self.grid.steps(self.clip.threshold(w, self.grid, hessian_diagonal))

    @abstractmethod
    def fake_quantize(self, w: Tensor) -> Tensor:
        """Return `w` as stored and read without calibration statistics, bit for bit. The gradient is zero."""
