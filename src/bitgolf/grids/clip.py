"""Clip rules: which magnitude of a row is mapped to the largest code."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bitgolf.errors import RecipeError
from bitgolf.grids.integer import IntGrid
from bitgolf.spec import register


class Clip(ABC):
    @abstractmethod
    def clip(self, w: Tensor, grid: IntGrid) -> Tensor:
        """float32[R], >= 0: the magnitude that becomes Q, for each row of `w`, float32[R, C]."""


@register
class MaxClip(Clip):
    """The largest magnitude: nothing is clipped."""

    def clip(self, w: Tensor, grid: IntGrid) -> Tensor:
        return w.abs().amax(1)


@register
class QuantileClip(Clip):
    """A quantile of the magnitudes, interpolated: on rows of a few thousand, the default is the maximum in practice.

    Source: openai/parameter-golf, the baseline's `int8_clean_per_row_v1`.
    """

    def __init__(self, *, quantile: float = 0.9999984) -> None:
        self.quantile = _quantile(quantile)

    def clip(self, w: Tensor, grid: IntGrid) -> Tensor:
        return torch.quantile(w.abs(), self.quantile, dim=1)


@register
class SdClip(Clip):
    """`k` standard deviations: the step, and so the rate, follows the row's spread, 2.047 - log2(k/Q) bits per weight.

    A Gaussian row never reaches the clip at k = 12.85. Source: openai/parameter-golf, pull request 1394.
    """

    def __init__(self, *, k: float = 12.85) -> None:
        if not k > 0:
            raise RecipeError(f"k is positive, not {k}", place="SdClip.k")
        self.k = k

    def clip(self, w: Tensor, grid: IntGrid) -> Tensor:
        spread = w.std(1, correction=int(w.shape[1] > 1))
        # The root mean square binds only on rows that are nearly constant, whose spread would crush them to zero.
        return torch.maximum(self.k * spread, w.square().mean(1).sqrt())


@register
class SearchClip(Clip):
    """The quantile whose rounded row is nearest to the row in squared error (the first of equals).

    Not `per_row`: one quantile for the whole tensor, still with each row's own clip, as the records do that call it
    GPTQ-lite. Source: openai/parameter-golf, pull request 414.
    """

    def __init__(
        self, *, quantiles: tuple[float, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0), per_row: bool = True
    ) -> None:
        if not quantiles:
            raise RecipeError("there is nothing to search among", place="SearchClip.quantiles")
        self.quantiles = [_quantile(q) for q in quantiles]
        self.per_row = per_row

    def clip(self, w: Tensor, grid: IntGrid) -> Tensor:
        clips = torch.quantile(w.abs(), torch.tensor(self.quantiles, device=w.device), dim=1)
        best, least = clips[0], torch.full_like(clips[0], torch.inf, dtype=torch.float64)
        for clip in clips:
            error = (w - grid.fake(w, grid.steps(clip)[:, None])).double().square().sum(1)
            if not self.per_row:
                error = error.sum().expand_as(error)
            best = torch.where(error < least, clip, best)
            least = torch.where(error < least, error, least)
        return best


def _quantile(value: float) -> float:
    if not 0 < value <= 1:
        raise RecipeError(f"a quantile is above 0 and at most 1, not {value}", place="clip")
    return value
