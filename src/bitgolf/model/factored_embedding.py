"""A token table of another width than the stream."""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.inits import Normal
from bitgolf.model.interfaces import Init, View
from bitgolf.model.linear import Embedding, Linear


@register
class FactoredEmbedding(Embedding):
    """E (V, e), expanded to the stream by P (D, e); a tied head comes back by P' (e, D): arXiv 1909.11942, PG #640.

    Tokens are P E[id], logits E P' x. P and P' are two matrices, role `matrix`, E has the role `embedding`.
    """

    def __init__(
        self,
        at: Place,
        /,
        *,
        width: int,
        init: Spec[Init] = part(Normal, std=0.005),
        view: tuple[Spec[View], ...] = (),
        linear: Spec[Linear] = part(Linear),
    ) -> None:
        if width < 1:
            raise RecipeError(f"a table of width {width} holds nothing", place="model.embed.width")
        super().__init__(at._replace(dim=width), init=init, view=view)
        self.expand = linear(at.matrix(width, at.dim, name="expand"))
        self.reduce = linear(at.matrix(at.dim, width, name="reduce"))

    def forward(self, ids: Tensor) -> Tensor:
        return self.expand(super().forward(ids))

    def project(self, x: Tensor) -> Tensor:
        return super().project(self.reduce(x))
