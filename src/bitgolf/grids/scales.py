"""How the step of a row is stored. Steps are rounded to what is stored before any code is reckoned with them."""

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
"""The smallest step. In float16 steps round by less than 1 % from here on, half of it would be lost at 2**-24 and all
below. What a smaller step would have kept is an error of at most 2e-6 in a weight."""


class ScaleFormat(ABC):
    """The steps there are, from `MIN_STEP` to `max_step`; in storage each is one number of `dtype`. Equal settings are equal."""

    dtype: ClassVar[np.dtype[Any]]

    @property
    @abstractmethod
    def max_step(self) -> float:
        """The largest step."""

    @abstractmethod
    def round(self, step: Tensor) -> Tensor:
        """float32 steps of any shape, at least `MIN_STEP`, as they will be read back; infinite where beyond `max_step`."""

    @abstractmethod
    def store(self, step: Tensor) -> NDArray[Any]:
        """Rounded finite steps as they are stored."""

    @abstractmethod
    def read(self, stored: NDArray[Any]) -> Tensor:
        """The inverse, float32. Raises `CorruptFileError` for what is no step."""


@register
@dataclass(frozen=True, kw_only=True)
class Float16Scale(ScaleFormat):
    """float16, to the nearest: 16 bits a row."""

    dtype = np.dtype(np.float16)

    @property
    def max_step(self) -> float:
        return 65504.0

    def round(self, step: Tensor) -> Tensor:
        # Not `step.half().float()`: a compiler that fuses the two leaves the rounding out (inductor does), and training
        # would feel other steps than are stored.
        power = (step.view(torch.int32) & 0x7F800000).view(torch.float32)  # 2**floor(log2(step))
        unit = (power * 2.0**-10).clamp_min(2.0**-24)
        return torch.where(step < 65520.0, (step / unit).round() * unit, torch.inf)

    def store(self, step: Tensor) -> NDArray[Any]:
        return step.half().cpu().numpy()

    def read(self, stored: NDArray[Any]) -> Tensor:
        if not (np.isfinite(stored) & (stored > 0)).all():
            raise CorruptFileError("a scale is not a positive finite number")
        return torch.from_numpy(stored).float()


@register
@dataclass(frozen=True, kw_only=True)
class LogScale(ScaleFormat):
    """Powers of two with fractions in the exponent, from 2**-18 on: 8 bits a row, the same float32 on every machine.

    per_octave: steps from one power of two to the next. With 16 they end at 0.239, with 8 at 15,000, with 4 nothing is
    beyond. The next step upwards is taken (on average 2.2 % more with 16), so that nothing is clipped that a clip keeps.
    """

    dtype = np.dtype(np.uint8)

    steps_per_doubling: Literal[4, 8, 16] = 16
    steps: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """All steps there are, then infinity."""

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
