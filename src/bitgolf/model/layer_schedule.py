"""Which blocks run, in which order, and what connects the halves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import Place
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block, Depth, Wiring
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Order, Skip, Stream
from bitgolf.model.layer_orders import Once
from bitgolf.model.part import Clocked
from bitgolf.model.residual_topology import Serial
from bitgolf.runtime.progress import Now


@register
class AddSkip(Skip):
    """x + w_j * skip, w (skips, D) started at 1: the baseline's `skip_weights`."""

    roles = {"weight": "scale"}

    def __init__(self, at: Place, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(at.fan_in, at.dim))

    def forward(self, x: Tensor, skip: Tensor, j: int) -> Tensor:
        return x + self.weight[j].to(x.dtype) * skip


@register
class GatedSkip(Skip):
    """g * x + (1 - g) * w_j * skip with g = sigmoid(gate_j): Parameter Golf #1089.

    w (skips, D) starts at 1 and gate (skips, D) at 0, so half of each at first. A gate towards infinity is no skip.
    With `rows` there are so many of each, and further skips share the last ones (#1285); 0 is one for each skip.
    """

    roles = {"weight": "scale", "gate": "scale"}

    def __init__(self, at: Place, /, *, rows: int = 0) -> None:
        super().__init__()
        rows = min(rows or at.fan_in, at.fan_in)
        self.weight = nn.Parameter(torch.ones(rows, at.dim))
        self.gate = nn.Parameter(torch.zeros(rows, at.dim))

    def forward(self, x: Tensor, skip: Tensor, j: int) -> Tensor:
        row = min(j, len(self.weight) - 1)
        gate, weight = self.gate[row].sigmoid().to(x.dtype), self.weight[row].to(x.dtype)
        return gate * x + (1 - gate) * (weight * skip)


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

    def visit(self, x: Stream, bus: Bus, block: Block) -> Stream:
        x = self.wiring(x, bus, block)
        bus.visit += 1
        return x


@register
class Straight(Planned):
    """One block after the other."""

    def __init__(self, at: Place, /, *, order: Spec[Order] = part(Once), wiring: Spec[Wiring] = part(Serial)) -> None:
        super().__init__(at, order, wiring)

    def forward(self, x: Tensor, bus: Bus, blocks: Sequence[Block]) -> Tensor:
        stream: Stream = x
        for i in self.visits:
            stream = self.visit(stream, bus, blocks[i])
        return self.wiring.close(stream)


@register
class UNet(Planned):
    """U-Net skips: the first half of the visits push their outputs, the second half pop them, adjacent pair first.

    Skip j goes in before visit n/2 + j (the baseline). With an odd number of visits the last one has none.
    There are skips for the longest plan; a shorter one uses the first of them.
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
        self.skip = skip(at.matrix(max(len(visits) for _, visits in self.plans) // 2, at.dim))

    def forward(self, x: Tensor, bus: Bus, blocks: Sequence[Block]) -> Tensor:
        half = len(self.visits) // 2
        stream: Stream = x
        skips: list[Stream] = []
        for i in self.visits[:half]:
            stream = self.visit(stream, bus, blocks[i])
            skips.append(stream)
        for j, i in enumerate(self.visits[half:]):
            if skips:
                stream = self.wiring.blend(stream, self.skip, skips.pop(), j, blocks[i])
            stream = self.visit(stream, bus, blocks[i])
        return self.wiring.close(stream)
