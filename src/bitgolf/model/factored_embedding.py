"""Factored token embedding: a table of another width than the residual stream."""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Width
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import NormalInit
from bitgolf.model.interfaces import Init, ResidualStreamPart, WeightTransform
from bitgolf.model.linear import Embedding, Linear
from bitgolf.model.part import build_chain


@register
class FactoredEmbedding(Embedding):
    """Embedding P E[id] with E (V, width) and P (D, width); logits of a tied head E P' x with P' (width, D).

    arXiv 1909.11942, Parameter Golf #640. P and P' are separate matrices with the role `matrix`; E has the role
    `embedding`. pre_expand: parts on the looked-up rows (B, T, width), such as `PreviousTokenEmbedding`. Raises
    `RecipeError` if `width` is below 1.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        width: Width,
        init: Spec[Init] = part(NormalInit, std=0.005),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        transform_head: bool = True,
        pre_expand: tuple[Spec[ResidualStreamPart], ...] = (),
        linear: Spec[Linear] = part(Linear),
    ) -> None:
        if width < 1:
            raise RecipeError(f"must be at least 1, got {width}", where="model.embed.width")
        super().__init__(
            context._replace(dim=width), init=init, weight_transforms=weight_transforms, transform_head=transform_head
        )
        self.pre_expand = build_chain(pre_expand, context._replace(dim=width))
        self.expand = linear(context.for_matrix(width, context.dim, name="expand"))
        self.reduce = linear(context.for_matrix(context.dim, width, name="reduce"))

    def forward(self, ids: Tensor, context: ForwardContext | None = None) -> Tensor:
        x, context = super().forward(ids), context or ForwardContext(ids)
        for p in self.pre_expand:
            x = p(x, context)
        return self.expand(x)

    def tied_logits(self, x: Tensor, correction: Tensor | None = None) -> Tensor:
        return super().tied_logits(self.reduce(x), correction)
