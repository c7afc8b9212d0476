"""Quantization-aware training (QAT): in training, weights are replaced by their quantized values.

These transforms act in training mode only. A model is scored with the weights that its artifact holds, so in evaluation
mode they are the identity. Each takes the codec that stores the matrix, and rounds with its grid, clip rule and
pruning. The edit `qat` (`bitgolf.recipes._qat`) takes the codecs from the rules of a recipe. To reproduce a published
system that trains with another grid than it stores, give another codec here; `show` and `doctor` report the difference.

Published recipes start QAT when the scale s of the learning rate falls below a threshold; here `since` is a fraction of
the run. If s decreases linearly from 1 to 0 over the last fraction W of the run, then s < threshold from `since = 1 -
threshold * W` on: a threshold of 0.15 and a warmdown over half the run give since=0.925.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import FractionBelowOne, Positive
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


def straight_through(w: Tensor, quantized: Tensor) -> Tensor:
    """Straight-through estimator (Bengio et al., arXiv 1308.3432): the value of `quantized` with the gradient of `w`.

    The value is exact bit for bit, since w - w is zero; w + (quantized - w) would be rounded.
    """
    return quantized.to(w.dtype).detach() + (w - w.detach())


class QATTransform(WeightTransform, Scheduled):
    """A matrix (R, C) quantized as by `codec`, with one step size per row, in training only.

    It is active from the fraction `since` of the run on. The `solver` of the codec is not applied, since there are no
    calibration statistics during training. Raises `RecipeError` if `since` is outside [0, 1), or if the clip rule of
    the codec needs calibration.
    """

    training_only = True

    def __init__(self, codec: RowQuantizer, since: float) -> None:
        super().__init__()
        if not 0 <= since < 1:
            raise RecipeError(
                f"must be a fraction of the run in [0, 1), got {since}", where=f"{type(self).__name__}.since"
            )
        if codec.clip.needs_calibration:
            raise RecipeError(
                f"{type(codec.clip).__name__} needs calibration, which does not exist during training",
                where=f"{type(self).__name__}.codec.clip",
                hint="use a clip rule that needs the weights only, such as SdClip",
            )
        self.codec, self.since, self.active = codec, since, True

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return (self.since,) if self.since else ()

    def update(self, progress: TrainingProgress) -> None:
        self.active = progress.fraction >= self.since

    def forward(self, w: Tensor) -> Tensor:
        return self.quantized(w) if self.training and self.active else w

    def step_sizes(self, w: Tensor) -> Tensor:
        """Step size of each row, float32 (R, 1), without gradient."""
        return self.codec.row_steps(w.detach().float())[:, None]

    def quantized(self, w: Tensor) -> Tensor:
        """The matrix that replaces `w`, (R, C), with a gradient with respect to `w`."""
        raise NotImplementedError


@register
class FakeQuant(QATTransform):
    """Exactly the values that the codec stores, with a straight-through gradient.

    arXiv 1712.05877; Parameter Golf #63. From the first step on, it closes the loss gap due to quantization; started
    late in the run (`since`), it costs little time. A weight average that starts before `since` mixes weights trained
    with and without quantization: start it at `since` (`EMA.since`), or do not average.
    """

    def __init__(self, context: BuildContext, /, *, codec: Spec[RowQuantizer], since: FractionBelowOne = 0.0) -> None:
        super().__init__(codec(), since)

    def quantized(self, w: Tensor) -> Tensor:
        return straight_through(w, self.codec.fake_quantize(w))


@register
class QuantNoise(QATTransform):
    """w + u * step with u ~ U(-1/2, 1/2) for each weight and use: rounding errors as noise, with ordinary gradients.

    Parameter Golf #363, on looped blocks, where errors add up over the visits. Noise whose magnitude differs from the
    rounding errors of the codec does harm.
    """

    def __init__(self, context: BuildContext, /, *, codec: Spec[RowQuantizer], since: FractionBelowOne = 0.0) -> None:
        super().__init__(codec(), since)

    def quantized(self, w: Tensor) -> Tensor:
        return w + ((torch.rand_like(w) - 0.5) * self.step_sizes(w)).to(w.dtype)


@register
class SoftRoundQuant(QATTransform):
    """step * (floor(u) + sigmoid(alpha * (u - floor(u) - 1/2))) with u = w / step: differentiable rounding.

    alpha increases linearly from `alpha_start` at `since` to `alpha_end` at the end of the run; in the limit of
    infinity this is `FakeQuant`. The gradient is largest midway between two levels, and zero where a weight is clipped.
    Parameter Golf #589, and the systems that build on #1204.
    """

    alpha: Tensor

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        codec: Spec[RowQuantizer],
        alpha_start: Positive = 1.0,
        alpha_end: Positive = 16.0,
        since: FractionBelowOne = 0.0,
    ) -> None:
        super().__init__(codec(), since)
        self.alpha_start, self.alpha_end = alpha_start, alpha_end
        # A tensor, so that a compiled graph stays the same. On the CPU, so that a model on the meta device has a value.
        self.register_buffer("alpha", torch.tensor(alpha_end, device="cpu"), persistent=False)

    def update(self, progress: TrainingProgress) -> None:
        super().update(progress)
        elapsed = max(0.0, (progress.fraction - self.since) / (1 - self.since))
        self.alpha.fill_(self.alpha_start + (self.alpha_end - self.alpha_start) * elapsed)

    def quantized(self, w: Tensor) -> Tensor:
        step = self.step_sizes(w)
        u = w.float() / step
        below = u.detach().floor()
        soft = below + torch.sigmoid(self.alpha * (u - below - 0.5))
        return (soft.clamp(self.codec.grid.qmin, self.codec.grid.qmax) * step).to(w.dtype)
