"""Additions to the values of attention: the values of layer 0 (value residual), and embeddings of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, NonNegative, Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import NormalInit, OrthogonalInit
from bitgolf.model.interfaces import Init, ResidualStreamPart, ValuePart, WeightTransform
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.numerics import scalar_to_channels

LAYER_0_VALUES = "values of layer 0"
VALUE_EMBEDDINGS = "value embeddings"


def require_shared(context: ForwardContext, name: str, hint: str) -> Tensor:
    """The tensor that another part has stored in `context.shared`. Raises `RecipeError` if there is none."""
    if name not in context.shared:
        raise RecipeError(f"no part provides the {name}", where="value", hint=hint)
    return context.shared[name]


class ValueResidualBase(ValuePart):
    """Layer 0 stores its values at its first visit and does not change them; later layers blend them into their own."""

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.is_layer_0 = context.layer == 0

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        """Values of this layer, given its own v and the v0 of layer 0, all (B, T, G, d)."""
        raise NotImplementedError

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        if self.is_layer_0:
            context.shared.setdefault(LAYER_0_VALUES, v)
            return v
        return self.blend(v, require_shared(context, LAYER_0_VALUES, f"use {type(self).__name__} on layer 0 too"))


@register
class FixedValueResidual(ValueResidualBase):
    """v <- (v + v0) / 2 on all layers after layer 0. No gradient flows into v0 (Parameter Golf #675)."""

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        return 0.5 * v + 0.5 * v0.detach()


@register
class ValueResidual(ValueResidualBase):
    """v <- v + sigmoid(alpha) v0 on all layers after layer 0; alpha (1,) is initialized to 0. Gradients flow into v0.

    Value residual learning (ResFormer, arXiv 2410.17897), in the form of Parameter Golf #569. #363 reports that it does
    harm on looped layers, where v0 comes from the first visit only.
    """

    roles = {"alpha": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__(context)
        if not self.is_layer_0:
            self.alpha = nn.Parameter(torch.zeros(1))

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        return v + scalar_to_channels(self.alpha.sigmoid(), v) * v0


@register
class ValueEmbedding(ResidualStreamPart):
    """Stores scale * U[ids] P^T, (B, T, value_dim), for `AddValueEmbedding`. It does not change the stream.

    Value embeddings (Parameter Golf #374), a part of `LM.post_embed`: U (V, width) ~ N(0, std^2), P (value_dim, width)
    initialized by `init`, and one learned scale. `value_dim` is the total width of all key/value heads. P has the role
    `matrix`: #374 trains it with Muon; scripts with parameter banks train it like the scalars, which needs a rule for
    `matrix@post_embed.**`. weight_transforms: of U and P, for example fake quantization. For a part in `Only`, their
    names are `embed` and `project`.
    """

    roles = {"scale": "scale"}

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        width: Width = 128,
        value_dim: Width = 256,
        std: NonNegative = 0.01,
        scale: Finite = 0.1,
        init: Spec[Init] = part(OrthogonalInit),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
    ) -> None:
        super().__init__()
        if width < 1 or value_dim < 1:
            message = f"width and value_dim must be at least 1, got {width} and {value_dim}"
            raise RecipeError(message, where="ValueEmbedding")
        table = part(Embedding, init=part(NormalInit, std=std), weight_transforms=weight_transforms)
        self.table = table(context._replace(dim=width))
        project = part(Linear, init=init, weight_transforms=weight_transforms)
        self.project = project(context.for_matrix(width, value_dim, name="project"))
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        values = self.project(self.table(context.ids))
        context.shared[VALUE_EMBEDDINGS] = scalar_to_channels(self.scale, values) * values
        return x

    def lookups(self, context: ForwardContext) -> tuple[tuple[Embedding, Tensor], ...]:
        return ((self.table, context.ids),)


@register
class AddValueEmbedding(ValuePart):
    """v <- v + c e with e from `ValueEmbedding` and one learned c per layer, (1,), initialized to 1.

    Parameter Golf #374. Raises `RecipeError` if there is no `ValueEmbedding`, or one of another width.
    """

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        e = require_shared(context, VALUE_EMBEDDINGS, "add ValueEmbedding to `post_embed` of the model")
        if e.shape[-1] != v.shape[2] * v.shape[3]:
            heads, width = v.shape[2:]
            message = f"value_dim is {e.shape[-1]}, but attention has {heads} key/value heads of width {width}"
            raise RecipeError(message, where="ValueEmbedding.value_dim", hint=f"set it to {heads * width}")
        return v + scalar_to_channels(self.weight, v) * e.view_as(v).to(v.dtype)
