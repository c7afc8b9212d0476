"""Parts on the residual stream: norms, mixing with its first state x0, and scales of the residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Count, CountOrZero, Finite
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import Norm, ResidualScale, ResidualStreamPart
from bitgolf.model.numerics import rms_norm
from bitgolf.model.part import Scheduled
from bitgolf.runtime.progress import TrainingProgress


@register
class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps), without a gain (arXiv 1910.07467; the baseline's form)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x)


@register
class DepthScaledNorm(Norm):
    """RMSNorm times 1/sqrt(layer + 1), layers counted from 0 ("LN scale", Parameter Golf #315).

    It is for the norm of a block. Raises `RecipeError` outside a block, for example as the final norm of the model.
    """

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        if context.layer < 0:
            message = "DepthScaledNorm must be the norm of a block: the final norm has no layer index"
            raise RecipeError(message, where="model.norm", hint="use RMSNorm as the final norm")
        self.scale = (context.layer + 1) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x) * self.scale


@register
class EmbeddingNorm(ResidualStreamPart):
    """RMS normalization after the embedding. In the baseline its output is x0, the first state of the stream."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return rms_norm(x)


@register
class MixX0(ResidualStreamPart):
    """x <- m0 * x + m1 * x0 with two learned vectors (2, D), initialized to 1 and 0: the baseline's `resid_mix`."""

    roles = {"weight": "scale"}
    identity_at_init = True

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, context.dim))
        with torch.no_grad():
            self.weight[1] = 0

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        assert context.x0 is not None
        weight = self.weight.to(x.dtype)
        return weight[0] * x + weight[1] * context.x0


@register
class DepthMixX0(MixX0):
    """MixX0 initialized to (p, 1 - p) with p = sigmoid(steepness (layer/(layers - 1) - 1/2)): Parameter Golf #60.

    Initially, early layers give more weight to x0, late layers to the stream. Raises `RecipeError` outside a block.
    """

    identity_at_init = False

    def __init__(self, context: BuildContext, /, *, steepness: Finite = 3.0) -> None:
        super().__init__(context)
        if context.layer < 0:
            raise RecipeError(
                "DepthMixX0 must be a part of a block: `post_embed` has no layer index",
                where="model.post_embed",
                hint="add it to pre_block of the block",
            )
        p = torch.tensor(steepness * (context.layer / max(context.layers - 1, 1) - 0.5)).sigmoid()
        with torch.no_grad():
            self.weight.copy_(torch.stack([p, 1 - p])[:, None].expand_as(self.weight))


@register
class LayerScale(ResidualScale):
    """a * y with a learned vector a (D,), initialized to 1: the baseline's `attn_scale` and `mlp_scale`."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(context.dim))

    def forward(self, y: Tensor) -> Tensor:
        return self.weight.to(y.dtype) * y


@register
class ResidualWarmup(ResidualScale, Scheduled):
    """y * min(1, step / (warmup_steps + warmup_steps_per_layer * layer)) in training.

    "ProRes", Parameter Golf #675: residual branches are warmed up, low layers first. Scoring uses factor 1, so a run
    should last until the warmup of the last layer has ended. The factor is a buffer, which a compiled graph reads as
    data: the graph stays the same, and the warmup is not a phase. Raises `RecipeError` if `warmup_steps` is below 1 or
    `warmup_steps_per_layer` below 0.
    """

    factor: Tensor

    def __init__(
        self, context: BuildContext, /, *, warmup_steps: Count = 30, warmup_steps_per_layer: CountOrZero = 30
    ) -> None:
        super().__init__()
        self.steps = warmup_steps + warmup_steps_per_layer * context.layer
        if warmup_steps < 1 or warmup_steps_per_layer < 0:
            raise RecipeError(
                "warmup_steps must be at least 1 and warmup_steps_per_layer at least 0, "
                f"got {warmup_steps} and {warmup_steps_per_layer}",
                where="ResidualWarmup",
            )
        # On the CPU in a model on the meta device too: an artifact holds values of parameters, not of this buffer.
        self.register_buffer("factor", torch.ones((), device="cpu"), persistent=False)

    def update(self, progress: TrainingProgress) -> None:
        self.factor.fill_(min(1.0, progress.step / self.steps))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.factor
