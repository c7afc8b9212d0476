"""What attention's values may take from elsewhere: the first layer's values, a table of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import Bus
from bitgolf.model.inits import Normal, Orthogonal
from bitgolf.model.interfaces import Init, StreamPart, ValuePart
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.numerics import per_channel

FIRST = "values of layer 0"
TABLE = "value embeddings"


def left(bus: Bus, name: str, mend: str) -> Tensor:
    """What another part has left on the bus. Raises `RecipeError` where it has not."""
    if name not in bus.shared:
        raise RecipeError(f"nobody has left the {name}", place="value", mend=mend)
    return bus.shared[name]


class FirstValues(ValuePart):
    """Layer 0 leaves its values as they stand here, on its first visit, unchanged; later layers blend them in."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.first = at.layer == 0

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, v: Tensor, x: Tensor, bus: Bus) -> Tensor:
        if self.first:
            bus.shared.setdefault(FIRST, v)
            return v
        return self.blend(v, left(bus, FIRST, f"put {type(self).__name__} on layer 0 too"))


@register
class FixedValueResidual(FirstValues):
    """v <- (v + v0) / 2 on layers 1 and later; no gradient flows into v0 (Parameter Golf #675)."""

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        return 0.5 * v + 0.5 * v0.detach()


@register
class ValueResidual(FirstValues):
    """v <- v + sigmoid(alpha) v0 on layers 1 and later, alpha (1) = 0 at the start; v0 is trained through this too.

    Value residual learning (ResFormer, arXiv 2410.17897; in the form of Parameter Golf #569). On looped layers it was
    reported harmful (#363): v0 is of the first visit alone.
    """

    roles = {"alpha": "scale"}

    def __init__(self, at: Place, /) -> None:
        super().__init__(at)
        if not self.first:
            self.alpha = nn.Parameter(torch.zeros(1))

    def blend(self, v: Tensor, v0: Tensor) -> Tensor:
        return v + per_channel(self.alpha.sigmoid(), v) * v0


@register
class ValueTable(StreamPart):
    """Leaves scale * U[ids] P^T, (B, T, out), for `AddValueEmbedding`; the stream passes unchanged. In `LM.enter`.

    Value embeddings (Parameter Golf #374): U (V, width) ~ N(0, std^2), P (out, width) as `init`, one learned scale.
    `out` is the width of all k/v heads together. P is a matrix like others: #374 trained it
    with Muon, runs with parameter banks with the scalars, which a rule for `matrix@enter.**` says.
    """

    roles = {"scale": "scale"}

    def __init__(
        self,
        at: Place,
        /,
        *,
        width: int = 128,
        out: int = 256,
        std: float = 0.01,
        scale: float = 0.1,
        init: Spec[Init] = part(Orthogonal),
    ) -> None:
        super().__init__()
        if width < 1 or out < 1:
            raise RecipeError(f"a table of width {width} for {out} values is none", place="ValueTable")
        self.table = part(Embedding, init=part(Normal, std=std))(at._replace(dim=width))
        self.project = part(Linear, init=init)(at.matrix(width, out, name="project"))
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x: Tensor, bus: Bus) -> Tensor:
        values = self.project(self.table(bus.ids))
        bus.shared[TABLE] = per_channel(self.scale, values) * values
        return x


@register
class AddValueEmbedding(ValuePart):
    """v <- v + c e, e from `ValueTable` and one learned c (1) a layer, started at 1 (Parameter Golf #374)."""

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, v: Tensor, x: Tensor, bus: Bus) -> Tensor:
        e = left(bus, TABLE, "put ValueTable in the model's `enter`")
        if e.shape[-1] != v.shape[2] * v.shape[3]:
            cause = f"{v.shape[2]} heads of {v.shape[3]} values cannot take a table of {e.shape[-1]}"
            raise RecipeError(cause, place="ValueTable.out", mend=f"make it {v.shape[2] * v.shape[3]}")
        return v + per_channel(self.weight, v) * e.view_as(v).to(v.dtype)
