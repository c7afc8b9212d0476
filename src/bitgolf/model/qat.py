"""Quantization-aware training: a weight multiplies as it will be read back once it is stored.

These views act in training alone. A model is scored with the very weights that its artifact holds, so there they are
the identity. Each takes the codec that stores the matrix and rounds with its grid, its clip rule and its pruning; the edit
`qat` (`bitgolf.recipes._qat`) takes the codecs from a recipe's rules. A published system that trains with another grid
than it stores says so with a codec of its own here, and `show` and `doctor` tell the difference.

Published recipes switch on when the learning rate's scale s falls under a threshold; here `since` is a fraction of the
run. Where s falls in a line from 1 to 0 over the last part W of the run, s < threshold from `since = 1 - threshold * W`
on: 0.15 with a warm-down over half the run is since=0.925.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.grids.row_quantizer import RowQuantizer
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


def straight_through(w: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized`, bit for bit (w - w is zero, where w + (seen - w) would be rounded), and the gradient of `w`.

    Bengio and others, arXiv 1308.3432.
    """
    return quantized.to(w.dtype).detach() + (w - w.detach())


class QATTransform(WeightTransform, Scheduled):
    """A matrix (R, C) as `codec` will round it, one step a row: in training, from `since` of the run on.

    `solve` of the codec does not act here: training has no statistics.
    """

    training_only = True

    def __init__(self, codec: RowQuantizer, since: float) -> None:
        super().__init__()
        if not 0 <= since < 1:
            raise RecipeError(f"`since` is a fraction of the run, 0 to below 1, not {since}", where=type(self).__name__)
        if codec.clip.needs_calibration:
            raise RecipeError(
                f"{type(codec.clip).__name__} asks for calibration, and there is none while a model is trained",
                where=f"{type(self).__name__}.codec.clip",
                hint="a clip of the weights alone, such as SdClip",
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
        """The step of each row, float32 (R, 1), without gradient."""
        return self.codec.row_steps(w.detach().float())[:, None]

    def quantized(self, w: Tensor) -> Tensor:
        """What multiplies instead of `w`, (R, C), with the gradient that `w` gets."""
        raise NotImplementedError


@register
class FakeQuant(QATTransform):
    """Exactly what the codec writes, with a straight-through gradient (arXiv 1712.05877; Parameter Golf #63).

    From the first step it closes the gap that storing opens; late in the run (`since`) it is cheap. An average that began
    before `since` mixes weights of two kinds: start it there, or leave it out.
    """

    def __init__(self, context: BuildContext, /, *, codec: Spec[RowQuantizer], since: float = 0.0) -> None:
        super().__init__(codec(), since)

    def quantized(self, w: Tensor) -> Tensor:
        return straight_through(w, self.codec.fake_quantize(w))


@register
class QuantNoise(QATTransform):
    """w + u * step, u drawn from U(-1/2, 1/2) for each weight and use: rounding as noise, gradients are ordinary.

    Parameter Golf #363, on looped blocks, whose errors add up over the visits. Noise of another size than the codec's
    errors does harm.
    """

    def __init__(self, context: BuildContext, /, *, codec: Spec[RowQuantizer], since: float = 0.0) -> None:
        super().__init__(codec(), since)

    def quantized(self, w: Tensor) -> Tensor:
        return w + ((torch.rand_like(w) - 0.5) * self.step_sizes(w)).to(w.dtype)


@register
class SoftRoundQuant(QATTransform):
    """step * (floor(u) + sigmoid(alpha * (u - floor(u) - 1/2))) with u = w / step: rounding that has a gradient.

    `alpha` goes in a line from `alpha_start` at `since` to `alpha_end` at the end; at infinity this is `FakeQuant`. The gradient is
    largest midway between two levels, and zero where a weight is clipped. Parameter Golf #589 and the line of #1204.
    """

    alpha: Tensor

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        codec: Spec[RowQuantizer],
        alpha_start: float = 1.0,
        alpha_end: float = 16.0,
        since: float = 0.0,
    ) -> None:
        super().__init__(codec(), since)
        self.alpha_start, self.alpha_end = alpha_start, alpha_end
        # A tensor, so that a compiled graph stays the same; on the CPU, so that it has a value in a model on `meta`.
        self.register_buffer("alpha", torch.tensor(alpha_end, device="cpu"), persistent=False)

    def update(self, progress: TrainingProgress) -> None:
        super().update(progress)
        gone = max(0.0, (progress.fraction - self.since) / (1 - self.since))
        self.alpha.fill_(self.alpha_start + (self.alpha_end - self.alpha_start) * gone)

    def quantized(self, w: Tensor) -> Tensor:
        step = self.step_sizes(w)
        u = w.float() / step
        below = u.detach().floor()
        soft = below + torch.sigmoid(self.alpha * (u - below - 0.5))
        return (soft.clamp(self.codec.grid.qmin, self.codec.grid.qmax) * step).to(w.dtype)
