"""Parts on the residual stream: norms, the mix with the first state, the scale of what branches add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
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
    """RMSNorm times 1/sqrt(layer + 1), layers counted from 0: Parameter Golf #315 ("LN scale"). For a block's norm.

    Raises `RecipeError` as the model's last norm, which sits in no layer.
    """

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        if context.layer < 0:
            raise RecipeError("DepthScaledNorm stands in a layer", where="norm", hint="use RMSNorm after the blocks")
        self.scale = (context.layer + 1) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x) * self.scale


@register
class EmbeddingNorm(ResidualStreamPart):
    """The norm after the embedding: what later layers call x0 is its output."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return rms_norm(x)


@register
class MixX0(ResidualStreamPart):
    """x <- m0 * x + m1 * x0 with two learned vectors (2, D), started at (1, 0): the baseline's `resid_mix`."""

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
    """MixX0 started at (p, 1 - p) with p = sigmoid(steepness (layer/(layers - 1) - 1/2)): Parameter Golf #60.

    Early layers see the first state, late ones the stream. Raises `RecipeError` outside a block.
    """

    identity_at_init = False

    def __init__(self, context: BuildContext, /, *, steepness: float = 3.0) -> None:
        super().__init__(context)
        if context.layer < 0:
            raise RecipeError(
                "DepthMixX0 stands in a layer", where="model.post_embed", hint="put it into the block's pre_block"
            )
        p = torch.tensor(steepness * (context.layer / max(context.layers - 1, 1) - 0.5)).sigmoid()
        with torch.no_grad():
            self.weight.copy_(torch.stack([p, 1 - p])[:, None].expand_as(self.weight))


@register
class LayerScale(ResidualScale):
    """a * y with a learned vector a (D), started at 1: the baseline's `attn_scale` and `mlp_scale`."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(context.dim))

    def forward(self, y: Tensor) -> Tensor:
        return self.weight.to(y.dtype) * y


@register
class ResidualWarmup(ResidualScale, Scheduled):
    """y * min(1, steps / (first + per_layer * layer)): branches fade in, low layers first (Parameter Golf #675).

    Scored with the whole branch, so a run should last until its last layer is in. The factor is a buffer: a compiled
    graph reads it as data, and the fading in is no phase, as the graph stays the same.
    """

    factor: Tensor

    def __init__(self, context: BuildContext, /, *, warmup_steps: int = 30, warmup_steps_per_layer: int = 30) -> None:
        super().__init__()
        self.steps = warmup_steps + warmup_steps_per_layer * context.layer
        if warmup_steps < 1 or warmup_steps_per_layer < 0:
            raise RecipeError(
                f"cannot fade in over {self.steps} steps",
                where="ResidualWarmup",
                hint="warmup_steps >= 1, warmup_steps_per_layer >= 0",
            )
        # on the CPU also in a model built without values, which gets its parameters alone from an artifact
        self.register_buffer("factor", torch.ones((), device="cpu"), persistent=False)

    def update(self, progress: TrainingProgress) -> None:
        self.factor.fill_(min(1.0, progress.step / self.steps))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.factor
