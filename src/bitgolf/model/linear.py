"""The only matmul and the only lookup, with two chains each: `weight_transforms` edits the weight, `adapters` edits the output.

A weight multiplies in the type of what it multiplies, so that the residual stream's type (`LM.residual_dtype`) also holds where
no autocast is on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.inits import NormalInit, UniformFanInInit, initialize
from bitgolf.model.interfaces import Init, OutputAdapter, WeightTransform
from bitgolf.model.part import Part, build_chain


@register
class Linear(Part):
    """y = x W^T, W of shape (fan_out, fan_in), no bias. Starts at zero where its place says so, else as `init`."""

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
        """W as it multiplies: through the views."""
        w = self.weight
        for p in self.weight_transforms:
            w = p(w)
        return w

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.effective_weight().to(x.dtype))
        for p in self.adapters:
            y = y + p(x)
        return y


@register
class HeadLinear(Linear):
    """The matrix of an untied output head: another role, so that rules can tell it from the blocks' matrices."""

    roles = {"weight": "head"}


class TiedProduct(Part):
    """x W^T for a tied head. A module of its own, so that forward hooks see its input and its output."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight.to(x.dtype))


@register
class Embedding(Part):
    """Token table E (V, D); also the output matrix where the head is tied."""

    roles = {"weight": "embedding"}

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        init: Spec[Init] = part(NormalInit, std=0.005),
        weight_transforms: tuple[Spec[WeightTransform], ...] = (),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context.vocab, context.dim))
        initialize(self.weight, init())
        self.weight_transforms = build_chain(
            weight_transforms, context.for_matrix(context.dim, context.vocab, name="embed")
        )
        self.product = TiedProduct()

    def effective_weight(self) -> Tensor:
        w = self.weight
        for p in self.weight_transforms:
            w = p(w)
        return w

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.effective_weight())

    def tied_logits(self, x: Tensor) -> Tensor:
        """Tied head: (B, T, D) -> (B, T, V)."""
        return self.product(x, self.effective_weight())
