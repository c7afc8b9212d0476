"""Which blocks run, in which order, how their branches meet the stream, and what connects the halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from bitgolf.clock import Now
from bitgolf.model.core import Bus, Clocked
from bitgolf.model.sockets import Depth, Order, Skip, Wiring
from bitgolf.spec import Place, Spec, part, register

if TYPE_CHECKING:
    from bitgolf.model.skeleton import Block


@register
class Once(Order):
    """Every layer once, in order."""

    def __init__(self) -> None:
        pass

    def plans(self, layers: int) -> Sequence[tuple[float, Sequence[int]]]:
        return [(0.0, range(layers))]


@register
class Serial(Wiring):
    """The second branch reads what the first has written."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

    def forward(self, x: Tensor, bus: Bus, block: nn.Module) -> Tensor:
        return cast("Block", block)(x, bus)


@register
class AddSkip(Skip):
    """x + w_j * skip, w (skips, D) started at 1: the baseline's `skip_weights`."""

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(at.fan_in, at.dim))

    def forward(self, x: Tensor, skip: Tensor, j: int) -> Tensor:
        return x + self.weight[j] * skip


class Planned(Depth, Clocked):
    """Follows an order, whose plan may change during the run; as built, it follows the last one."""

    def __init__(self, at: Place, order: Spec[Order], wiring: Spec[Wiring]) -> None:
        super().__init__()
        self.plans = [(since, tuple(visits)) for since, visits in order().plans(at.layers)]
        self.visits = self.plans[-1][1]
        self.wiring = wiring(at)

    @property
    def moments(self) -> tuple[float, ...]:
        return tuple(since for since, _ in self.plans[1:])

    def at(self, now: Now) -> None:
        self.visits = [visits for since, visits in self.plans if since <= now.progress][-1]

    def visit(self, x: Tensor, bus: Bus, block: nn.Module) -> Tensor:
        x = self.wiring(x, bus, block)
        bus.visit += 1
        return x


@register
class Straight(Planned):
    """One block after the other."""

    def __init__(self, at: Place, /, *, order: Spec[Order] = part(Once), wiring: Spec[Wiring] = part(Serial)) -> None:
        super().__init__(at, order, wiring)

    def forward(self, x: Tensor, bus: Bus, blocks: nn.ModuleList) -> Tensor:
        for i in self.visits:
            x = self.visit(x, bus, blocks[i])
        return self.wiring.close(x)


@register
class UNet(Planned):
    """U-Net skips: the first half of the visits push their outputs, the second half pop them, adjacent pair first.

    Skip j goes in before visit n/2 + j (the baseline). With an odd number of visits the last one has none.
    """

    def __init__(
        self,
        at: Place,
        /,
        *,
        order: Spec[Order] = part(Once),
        wiring: Spec[Wiring] = part(Serial),
        skip: Spec[Skip] = part(AddSkip),
    ) -> None:
        super().__init__(at, order, wiring)
        self.skip = skip(at.matrix(len(self.visits) // 2, at.dim))

    def forward(self, x: Tensor, bus: Bus, blocks: nn.ModuleList) -> Tensor:
        half = len(self.visits) // 2
        skips: list[Tensor] = []
        for i in self.visits[:half]:
            x = self.visit(x, bus, blocks[i])
            skips.append(x)
        for j, i in enumerate(self.visits[half:]):
            if skips:
                x = self.wiring.blend(x, self.skip, skips.pop(), j)
            x = self.visit(x, bus, blocks[i])
        return self.wiring.close(x)
