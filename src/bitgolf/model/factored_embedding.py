"""A token table of another width than the stream."""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.inits import NormalInit
from bitgolf.model.interfaces import Init, WeightTransform
from bitgolf.model.linear import Embedding, Linear


@register
class FactoredEmbedding(Embedding):
    """E (V, e), expanded to the stream by P (D, e); a tied head comes back by P' (e, D): arXiv 1909.11942, PG #640.

    Tokens are P E[id], logits E P' x. P and P' are two matrices, role `matrix`, E has the role `embedding`.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        width: int,
        init: Spec[Init] = part(NormalInit, std=0.005),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        linear: Spec[Linear] = part(Linear),
    ) -> None:
        if width < 1:
            raise RecipeError(f"a table of width {width} holds nothing", where="model.embed.width")
        super().__init__(context._replace(dim=width), init=init, weight_transforms=weight_transforms)
        self.expand = linear(context.for_matrix(width, context.dim, name="expand"))
        self.reduce = linear(context.for_matrix(context.dim, width, name="reduce"))

    def forward(self, ids: Tensor) -> Tensor:
        return self.expand(super().forward(ids))

    def tied_logits(self, x: Tensor) -> Tensor:
        return super().tied_logits(self.reduce(x))
