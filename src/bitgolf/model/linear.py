"""Linear layers and the token embedding.

`weight_transforms` are applied to a weight before it is used; `adapters` add to the output of a linear layer. A weight
is cast to the dtype of its input: the residual stream keeps its dtype (`LM.residual_dtype`) without autocast, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.inits import NormalInit, UniformFanInInit, initialize
from bitgolf.model.interfaces import Init, OutputAdapter, WeightTransform
from bitgolf.model.part import Part, build_chain


@register
class Linear(Part):
    """y = x W^T with W (fan_out, fan_in), without bias.

    W is initialized to zero if `BuildContext.zero_init` is set, otherwise by `init`.
    """

    roles = {"weight": "matrix"}

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        init: Spec[Init] = part(UniformFanInInit),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        adapters: tuple[Spec[OutputAdapter], ...] = (),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context.fan_out, context.fan_in))
        if not context.zero_init:
            initialize(self.weight, init())
        self.weight_transforms = build_chain(weight_transforms, context)
        self.adapters = build_chain(adapters, context)

    def effective_weight(self) -> Tensor:
        """W after the weight transforms, (fan_out, fan_in)."""
        w = self.weight
        for p in self.weight_transforms:
            w = p(w)
        return w

    def row_inputs(self, x: Tensor) -> Tensor:
        """The inputs that rows of W are multiplied by, (…, columns of W), for statistics of W: here x itself."""
        return x

    def product(self, x: Tensor) -> Tensor:
        """The output without adapters."""
        return F.linear(x, self.effective_weight().to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x)
        for p in self.adapters:
            y = y + p(x)
        return y


@register
class HeadLinear(Linear):
    """The matrix of an untied output head. It has a role of its own, so that rules can select it separately."""

    roles = {"weight": "head"}


class TiedProduct(Part):
    """x W^T of a tied head. A separate module, so that forward hooks receive the input and the output."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight.to(x.dtype))


@register
class Embedding(Part):
    """Token embedding E (V, D): ids (B, T) -> (B, T, D). E is also the output matrix of a tied head.

    The model passes its `ForwardContext`, for embeddings that look at more than the ids.

    transform_head: whether the weight transforms apply to the output matrix, too; in #640 only lookups are rounded.
    """

    roles = {"weight": "embedding"}

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        init: Spec[Init] = part(NormalInit, std=0.005),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
        transform_head: bool = True,
    ) -> None:
        super().__init__()
        self.transform_head = transform_head
        self.weight = nn.Parameter(torch.empty(context.vocab, context.dim))
        initialize(self.weight, init())
        self.weight_transforms = build_chain(
            weight_transforms, context.for_matrix(context.dim, context.vocab, name="embed")
        )
        self.product = TiedProduct()

    def effective_weight(self) -> Tensor:
        """E after the weight transforms, (V, D)."""
        w = self.weight
        for p in self.weight_transforms:
            w = p(w)
        return w

    def forward(self, ids: Tensor, context: ForwardContext | None = None) -> Tensor:
        return F.embedding(ids, self.effective_weight())

    def tied_logits(self, x: Tensor, correction: Tensor | None = None) -> Tensor:
        """Logits of a tied head: (B, T, D) -> (B, T, V). correction: added to E, of its shape."""
        weight = self.effective_weight() if self.transform_head else self.weight
        return self.product(x, weight if correction is None else weight + correction)
