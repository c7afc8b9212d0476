"""Clip rules: which magnitude of a row is mapped to the largest code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.grids.integer import IntGrid


class Clip(ABC):
    """Rules with equal settings are equal."""

    @property
    def needs_calibration(self) -> bool:
        """Whether `threshold` asks for the inputs, which nobody knows during training."""
        return False

    @abstractmethod
    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        """float32[R], >= 0: the magnitude that becomes Q, for each row of `w`, float32[R, C].

        `hessian_diagonal`, float32[C]: the mean squares of what the columns multiply, the diagonal of the Hessian; None: all alike.
        """


@register
@dataclass(frozen=True, kw_only=True)
class MaxClip(Clip):
    """The largest magnitude: nothing is clipped."""

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        return w.abs().amax(1)


@register
@dataclass(frozen=True, kw_only=True)
class QuantileClip(Clip):
    """A quantile of the magnitudes, interpolated: on rows of a few thousand, the default is the maximum in practice.

    Source: openai/parameter-golf, the baseline's `int8_clean_per_row_v1`.
    """

    quantile: float = 0.9999984

    def __post_init__(self) -> None:
        _check_quantile(self.quantile)

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        return torch.quantile(w.abs(), self.quantile, dim=1)


@register
@dataclass(frozen=True, kw_only=True)
class SdClip(Clip):
    """`k` standard deviations: the step, and so the rate, follows the row's spread, 2.047 - log2(k/Q) bits per weight.

    A Gaussian row never reaches the clip at k = 12.85. Source: openai/parameter-golf, pull request 1394.
    """

    k: float = 12.85

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise RecipeError(f"k is positive, not {self.k}", where="SdClip.k")

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        spread = w.std(1, correction=int(w.shape[1] > 1))
        # The root mean square binds only on rows that are nearly constant, whose spread would crush them to zero.
        return torch.maximum(self.k * spread, w.square().mean(1).sqrt())


@register
@dataclass(frozen=True, kw_only=True)
class HessianSdClip(SdClip):
    """`SdClip`, wider for rows whose weights meet large inputs: k sigma_i (1 + share (r_i - 1)), r_i ~ sum_j |w_ij| h_j.

    r has the mean 1, and h is the diagonal of the Hessian. So loud rows get a larger step, against what is best for
    their error: they clip less and the file is smaller; by row r is mostly noise (spec, 1.10).
    Source: openai/parameter-golf, pull request 1412, in the form of shikhar's experiments.
    """

    strength: float = 0.175

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise RecipeError(f"a share is 0 to 1, not {self.strength}", where="HessianSdClip.strength")

    @property
    def needs_calibration(self) -> bool:
        return True

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        met = w.abs() @ (torch.ones_like(w[0]) if hessian_diagonal is None else hessian_diagonal)
        ratio = torch.where(met.mean() > 0, met / met.mean(), 1.0)
        return super().threshold(w, grid) * (1 + self.strength * (ratio - 1))


@register
@dataclass(frozen=True, kw_only=True)
class SearchClip(Clip):
    """The quantile whose rounded row is nearest to the row in squared error (the first of equals).

    Not `per_row`: one quantile for the whole tensor, still with each row's own clip, as the records do that call it
    GPTQ-lite. Source: openai/parameter-golf, pull request 414.
    weighted: an error counts as much as the mean square of what its column multiplies, which calibration knows.
    """

    quantiles: tuple[float, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    per_row: bool = True
    weighted: bool = False

    def __post_init__(self) -> None:
        if not self.quantiles:
            raise RecipeError("there is nothing to search among", where="SearchClip.quantiles")
        for quantile in self.quantiles:
            _check_quantile(quantile)

    @property
    def needs_calibration(self) -> bool:
        return self.weighted

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        clips = torch.quantile(w.abs(), torch.tensor(self.quantiles, device=w.device), dim=1)
        best, least = clips[0], torch.full_like(clips[0], torch.inf, dtype=torch.float64)
        for clip in clips:
            squares = (w - grid.fake_quantize(w, grid.steps(clip)[:, None])).double().square()
            error = (
                squares * hessian_diagonal if self.needs_calibration and hessian_diagonal is not None else squares
            ).sum(1)
            if not self.per_row:
                error = error.sum().expand_as(error)
            best = torch.where(error < least, clip, best)
            least = torch.where(error < least, error, least)
        return best


def _check_quantile(value: float) -> None:
    if not 0 < value <= 1:
        raise RecipeError(f"a quantile is above 0 and at most 1, not {value}", where="clip")
