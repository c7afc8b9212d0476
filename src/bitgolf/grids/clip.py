"""Clip rules: the magnitude that is mapped to the largest code, for each row of a matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bitgolf.config.ranges import Fraction, Positive, PositiveFraction
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.grids.integer import IntGrid


class Clip(ABC):
    """A rule for the clip threshold of each row. Rules with equal settings are equal."""

    @property
    def needs_calibration(self) -> bool:
        """Whether `threshold` needs `hessian_diagonal`, which is not available during training."""
        return False

    @abstractmethod
    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        """Return the magnitude that is mapped to the code Q, for each row of `w`: float32 (R,), >= 0.

        w: float32 (R, C). hessian_diagonal: float32 (C,), mean square of each column's inputs; None means all equal.
        """


@register
@dataclass(frozen=True, kw_only=True)
class MaxClip(Clip):
    """Clip at the largest magnitude of the row: nothing is clipped."""

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        return w.abs().amax(1)


@register
@dataclass(frozen=True, kw_only=True)
class QuantileClip(Clip):
    """Clip at a quantile of the row's magnitudes, interpolated linearly.

    On rows of a few thousand weights, the default is in practice the maximum. Source: openai/parameter-golf, format
    `int8_clean_per_row_v1` of the baseline.
    """

    quantile: PositiveFraction = 0.9999984

    def __post_init__(self) -> None:
        _check_quantile(self.quantile)

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        return torch.quantile(w.abs(), self.quantile, dim=1)


@register
@dataclass(frozen=True, kw_only=True)
class SdClip(Clip):
    """Clip at `k` standard deviations of the row.

    The step is then proportional to the standard deviation, and the rate of a Gaussian row is 2.047 - log2(k/Q) bits
    per weight. At k = 12.85 no weight of a Gaussian row is clipped. Source: openai/parameter-golf, pull request 1394.
    """

    k: Positive = 12.85

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise RecipeError(f"k must be positive, got {self.k}", where="SdClip.k")

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        spread = w.std(1, correction=int(w.shape[1] > 1))
        # The root mean square is larger only for nearly constant rows, which `k * spread` would clip to almost zero.
        return torch.maximum(self.k * spread, w.square().mean(1).sqrt())


@register
@dataclass(frozen=True, kw_only=True)
class HessianSdClip(SdClip):
    """`SdClip` with a wider clip for rows with large inputs: k sigma_i (1 + strength (r_i - 1)).

    r_i is proportional to sum_j |w_ij| h_j, with mean 1; h is the diagonal of the Hessian. Rows with large inputs get
    a larger step: fewer weights are clipped and the file is smaller, but a smaller step would minimize the error. Per
    row, r is mostly noise: its correlation between seeds is 0.12.
    Source: openai/parameter-golf, pull request 1412, as modified in shikhar's experiments.
    """

    strength: Fraction = 0.175

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise RecipeError(f"strength must be 0 to 1, got {self.strength}", where="HessianSdClip.strength")

    @property
    def needs_calibration(self) -> bool:
        return True

    def threshold(self, w: Tensor, grid: IntGrid, hessian_diagonal: Tensor | None = None) -> Tensor:
        weighted = w.abs() @ (torch.ones_like(w[0]) if hessian_diagonal is None else hessian_diagonal)
        ratio = torch.where(weighted.mean() > 0, weighted / weighted.mean(), 1.0)
        return super().threshold(w, grid) * (1 + self.strength * (ratio - 1))


@register
@dataclass(frozen=True, kw_only=True)
class SearchClip(Clip):
    """Clip at the quantile that minimizes the squared quantization error; the first one wins a tie.

    per_row: choose a quantile for each row, otherwise one for the whole tensor. weighted: weight squared errors by the
    mean square of the column's inputs, from calibration.
    Source: openai/parameter-golf, pull request 414 ("GPTQ-lite", per tensor).
    """

    quantiles: tuple[PositiveFraction, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    per_row: bool = True
    weighted: bool = False

    def __post_init__(self) -> None:
        if not self.quantiles:
            raise RecipeError("at least one quantile is needed, got ()", where="SearchClip.quantiles")
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
        raise RecipeError(f"a quantile must be above 0 and at most 1, got {value}", where="clip")
