"""Storage formats for the step of a row. Steps are rounded to the format before codes are computed with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import CorruptFileError
from bitgolf.grids import log_steps

MIN_STEP = 2.0**-18
"""The smallest step. From here on float16 rounds a step by less than 1 %; near 2**-24, the smallest float16, the error
reaches half of the step. A smaller step would reduce the error of a weight by at most 2e-6."""


def require_steps(stored: NDArray[Any]) -> NDArray[Any]:
    """Return stored floating-point steps. Raises `CorruptFileError` unless all are positive and finite."""
    if (invalid := stored[~(np.isfinite(stored) & (stored > 0))]).size:
        raise CorruptFileError(f"a stored scale must be positive and finite, got {invalid.flat[0]}")
    return stored


class ScaleFormat(ABC):
    """A format for steps from `MIN_STEP` to `max_step`, each stored as one number of type `dtype`.

    Formats with equal settings are equal.
    """

    dtype: ClassVar[np.dtype[Any]]

    @property
    @abstractmethod
    def max_step(self) -> float:
        """The largest step that can be stored."""

    @abstractmethod
    def round(self, step: Tensor) -> Tensor:
        """Return the float32 values that `read` will return for these steps, which are at least `MIN_STEP`.

        Steps of any shape; those beyond `max_step` become infinite.
        """

    @abstractmethod
    def store(self, step: Tensor) -> NDArray[Any]:
        """Return the stored form of steps that `round` returned, all finite."""

    @abstractmethod
    def read(self, stored: NDArray[Any]) -> Tensor:
        """Return the float32 steps. Raises `CorruptFileError` for numbers that are not steps."""


@register
@dataclass(frozen=True, kw_only=True)
class Float16Scale(ScaleFormat):
    """float16, rounded to nearest: 16 bits per row."""

    dtype = np.dtype(np.float16)

    @property
    def max_step(self) -> float:
        return 65504.0

    def round(self, step: Tensor) -> Tensor:
        # Not `step.half().float()`: inductor fuses the two casts and omits the rounding, so that training would use
        # other steps than those stored.
        power = (step.view(torch.int32) & 0x7F800000).view(torch.float32)  # 2**floor(log2(step))
        unit = (power * 2.0**-10).clamp_min(2.0**-24)
        return torch.where(step < 65520.0, (step / unit).round() * unit, torch.inf)

    def store(self, step: Tensor) -> NDArray[Any]:
        return step.half().cpu().numpy()

    def read(self, stored: NDArray[Any]) -> Tensor:
        return torch.from_numpy(require_steps(stored)).float()


@register
@dataclass(frozen=True, kw_only=True)
class Float32Scale(ScaleFormat):
    """float32, not rounded: 32 bits per row.

    For fake quantization as in Parameter Golf #315 to #1512, whose training rounds weights with float32 steps although
    the file stores float16: `FakeQuant(codec=IntRows(scales=Float32Scale()))`.
    """

    dtype = np.dtype(np.float32)

    @property
    def max_step(self) -> float:
        return float(np.finfo(np.float32).max)

    def round(self, step: Tensor) -> Tensor:
        return step

    def store(self, step: Tensor) -> NDArray[Any]:
        return step.float().cpu().numpy()

    def read(self, stored: NDArray[Any]) -> Tensor:
        return torch.from_numpy(require_steps(stored))


@register
@dataclass(frozen=True, kw_only=True)
class LogScale(ScaleFormat):
    """Logarithmic steps from 2**-18 on: 8 bits per row, bit-identical float32 on every machine.

    steps_per_doubling: steps per power of two. The largest step is 0.239 with 16, and 15,000 with 8; with 4 it is
    beyond any clip. Steps are rounded up (by 2.2 % on average with 16), so that no weight within the clip is clipped.
    """

    dtype = np.dtype(np.uint8)

    steps_per_doubling: Literal[4, 8, 16] = 16
    steps: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """All 256 steps in ascending order, then infinity."""

    def __post_init__(self) -> None:
        steps = MIN_STEP * log_steps.decode_log_steps(np.arange(256, dtype=np.uint8), self.steps_per_doubling)
        object.__setattr__(self, "steps", (*steps.tolist(), float("inf")))

    @property
    def max_step(self) -> float:
        return self.steps[-2]

    def round(self, step: Tensor) -> Tensor:
        steps = torch.tensor(self.steps, device=step.device)
        return steps[torch.bucketize(step, steps[:-1])]

    def store(self, step: Tensor) -> NDArray[Any]:
        return np.searchsorted(np.array(self.steps, np.float32), step.cpu().numpy()).astype(np.uint8)

    def read(self, stored: NDArray[Any]) -> Tensor:
        return torch.tensor(self.steps)[torch.from_numpy(stored).long()]
