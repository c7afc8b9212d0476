"""What attention's values may take from elsewhere: the first layer's values, a table of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import NormalInit, OrthogonalInit
from bitgolf.model.interfaces import Init, ResidualStreamPart, ValuePart
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.numerics import scalar_to_channels

LAYER_0_VALUES = "values of layer 0"
VALUE_EMBEDDINGS = "value embeddings"


def require_shared(context: ForwardContext, name: str, hint: str) -> Tensor:
    """What another part has left on the bus. Raises `RecipeError` where it has not."""
    if name not in context.shared:
        raise RecipeError(f"nobody has left the {name}", where="value", hint=hint)
    return context.shared[name]


class ValueResidualBase(ValuePart):
    """Layer 0 leaves its values as they stand here, on its first visit, unchanged; later layers blend them in."""

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.is_layer_0 = context.layer == 0

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        if self.is_layer_0:
            context.shared.setdefault(LAYER_0_VALUES, v)
            return v
        return self.blend(v, require_shared(context, LAYER_0_VALUES, f"put {type(self).__name__} on layer 0 too"))


@register
class FixedValueResidual(ValueResidualBase):
    """v <- (v + v0) / 2 on layers 1 and later; no gradient flows into v0 (Parameter Golf #675)."""

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        return 0.5 * v + 0.5 * v0.detach()


@register
class ValueResidual(ValueResidualBase):
    """v <- v + sigmoid(alpha) v0 on layers 1 and later, alpha (1) = 0 at the start; v0 is trained through this too.

    Value residual learning (ResFormer, arXiv 2410.17897; in the form of Parameter Golf #569). On looped layers it was
    reported harmful (#363): v0 is of the first visit alone.
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
    """Leaves scale * U[ids] P^T, (B, T, out), for `AddValueEmbedding`; the stream passes unchanged. In `LM.post_embed`.

    Value embeddings (Parameter Golf #374): U (V, width) ~ N(0, std^2), P (out, width) as `init`, one learned scale.
    `value_dim` is the width of all k/v heads together. P is a matrix like others: #374 trained it
    with Muon, runs with parameter banks with the scalars, which a rule for `matrix@post_embed.**` says.
    """

    roles = {"scale": "scale"}

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        width: int = 128,
        value_dim: int = 256,
        std: float = 0.01,
        scale: float = 0.1,
        init: Spec[Init] = part(OrthogonalInit),
    ) -> None:
        super().__init__()
        if width < 1 or value_dim < 1:
            raise RecipeError(f"a table of width {width} for {value_dim} values is none", where="ValueEmbedding")
        self.table = part(Embedding, init=part(NormalInit, std=std))(context._replace(dim=width))
        self.project = part(Linear, init=init)(context.for_matrix(width, value_dim, name="project"))
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        values = self.project(self.table(context.ids))
        context.shared[VALUE_EMBEDDINGS] = scalar_to_channels(self.scale, values) * values
        return x


@register
class AddValueEmbedding(ValuePart):
    """v <- v + c e, e from `ValueEmbedding` and one learned c (1) a layer, started at 1 (Parameter Golf #374)."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, v: Tensor, x: Tensor, context: ForwardContext) -> Tensor:
        e = require_shared(context, VALUE_EMBEDDINGS, "put ValueEmbedding in the model's `post_embed`")
        if e.shape[-1] != v.shape[2] * v.shape[3]:
            cause = f"{v.shape[2]} heads of {v.shape[3]} values cannot take a table of {e.shape[-1]}"
            raise RecipeError(cause, where="ValueEmbedding.value_dim", hint=f"make it {v.shape[2] * v.shape[3]}")
        return v + scalar_to_channels(self.weight, v) * e.view_as(v).to(v.dtype)
