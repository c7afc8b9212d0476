"""Rounding with one step for each row, as a codec stores it and as fake quantization repeats it in training."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from bitgolf.grids.clip import Clip
from bitgolf.grids.integer import IntGrid


class RowQuantizer(ABC):
    """An integer grid, the clip rule that gives each row its step, and the share of all weights that becomes zero."""

    grid: IntGrid
    clip: Clip
    prune: float

    def row_steps(self, w: Tensor, inputs: Tensor | None = None) -> Tensor:
        """float32 (R,): the step of each row of `w`, float32 (R, C). `inputs`: see `Clip.threshold`."""
        return self.grid.steps(self.clip.threshold(w, self.grid, inputs))

    @abstractmethod
    def fake_quantize(self, w: Tensor) -> Tensor:
        """`w` as it is read back where it was stored without statistics, bit for bit. No gradient."""
