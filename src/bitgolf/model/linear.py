"""The only matmul and the only lookup, with two chains each: `view` edits the weight, `add` edits the output.

A weight multiplies in the type of what it multiplies, so that the residual stream's type (`LM.stream`) also holds where
no autocast is on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.inits import Normal, UniformFanIn
from bitgolf.model.interfaces import Add, Init, View
from bitgolf.model.part import Part, chain


@register
class Linear(Part):
    """y = x W^T, W of shape (fan_out, fan_in), no bias. Starts at zero where its place says so, else as `init`."""

    roles = {"weight": "matrix"}

    def __init__(
        self,
        at: Place,
        /,
        *,
        init: Spec[Init] = part(UniformFanIn),
        view: tuple[Spec[View], ...] = (),
        add: tuple[Spec[Add], ...] = (),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(at.fan_out, at.fan_in))
        if not at.zero:
            with torch.no_grad():
                init().fill(self.weight)
        self.view = chain(view, at)
        self.add = chain(add, at)

    def viewed(self) -> Tensor:
        """W as it multiplies: through the views."""
        w = self.weight
        for p in self.view:
            w = p(w)
        return w

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.viewed().to(x.dtype))
        for p in self.add:
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
        self, at: Place, /, *, init: Spec[Init] = part(Normal, std=0.005), view: tuple[Spec[View], ...] = ()
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(at.vocab, at.dim))
        with torch.no_grad():
            init().fill(self.weight)
        self.view = chain(view, at.matrix(at.dim, at.vocab, name="embed"))
        self.product = TiedProduct()

    def table(self) -> Tensor:
        w = self.weight
        for p in self.view:
            w = p(w)
        return w

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table())

    def project(self, x: Tensor) -> Tensor:
        """Tied head: (B, T, D) -> (B, T, V)."""
        return self.product(x, self.table())
