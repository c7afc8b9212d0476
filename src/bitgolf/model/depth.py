"""Which blocks run, in which order, and what connects the first half with the second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.model.core import Bus
from bitgolf.model.sockets import Depth, Order
from bitgolf.spec import Place, Spec, part, register


@register
class Once(Order):
    """Every layer once, in order."""

    def __init__(self) -> None:
        pass

    def visits(self, layers: int) -> Sequence[int]:
        return range(layers)


@register
class Straight(Depth):
    """One block after the other."""

    def __init__(self, at: Place, /, *, order: Spec[Order] = part(Once)) -> None:
        super().__init__()
        self.order = tuple(order().visits(at.layers))

    def forward(self, x: Tensor, bus: Bus, blocks: nn.ModuleList) -> Tensor:
        for bus.visit, i in enumerate(self.order):
            x = blocks[i](x, bus)
        return x


@register
class UNet(Depth):
    """U-Net skips: the first half of the visits push their outputs, the second half pop them, adjacent pair first.

    Before visit n/2 + j: x <- x + w_j * skip, w (skips, D) started at 1 (the baseline's `skip_weights`).
    """

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /, *, order: Spec[Order] = part(Once)) -> None:
        super().__init__()
        visits = tuple(order().visits(at.layers))
        self.down, self.up = visits[: len(visits) // 2], visits[len(visits) // 2 :]
        self.weight = nn.Parameter(torch.ones(len(self.down), at.dim))

    def forward(self, x: Tensor, bus: Bus, blocks: nn.ModuleList) -> Tensor:
        skips: list[Tensor] = []
        for i in self.down:
            x = blocks[i](x, bus)
            bus.visit += 1
            skips.append(x)
        for j, i in enumerate(self.up):
            if skips:
                x = x + self.weight[j] * skips.pop()
            x = blocks[i](x, bus)
            bus.visit += 1
        return x
