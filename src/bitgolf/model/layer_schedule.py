"""Which blocks run, in which order, and what connects the halves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block, LayerSchedule, ResidualTopology
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import LayerOrder, ResidualStream, SkipConnection
from bitgolf.model.layer_orders import EachLayerOnce
from bitgolf.model.part import Scheduled
from bitgolf.model.residual_topology import SequentialResidual
from bitgolf.runtime.progress import TrainingProgress


@register
class WeightedSkip(SkipConnection):
    """x + w_j * skip, w (skips, D) started at 1: the baseline's `skip_weights`."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(context.fan_in, context.dim))

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        return x + self.weight[index].to(x.dtype) * skip


@register
class GatedSkip(SkipConnection):
    """g * x + (1 - g) * w_j * skip with g = sigmoid(gate_j): Parameter Golf #1089.

    w (skips, D) starts at 1 and gate (skips, D) at 0, so half of each at first. A gate towards infinity is no skip.
    With `num_weights` there are so many of each, and further skips share the last ones (#1285); 0 is one for each skip.
    """

    roles = {"weight": "scale", "gate": "scale"}

    def __init__(self, context: BuildContext, /, *, num_weights: int = 0) -> None:
        super().__init__()
        num_weights = min(num_weights or context.fan_in, context.fan_in)
        self.weight = nn.Parameter(torch.ones(num_weights, context.dim))
        self.gate = nn.Parameter(torch.zeros(num_weights, context.dim))

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        row = min(index, len(self.weight) - 1)
        gate, weight = self.gate[row].sigmoid().to(x.dtype), self.weight[row].to(x.dtype)
        return gate * x + (1 - gate) * (weight * skip)


class PhasedLayerSchedule(LayerSchedule, Scheduled):
    """Follows an order, whose plan may change during the run; as built, it follows the last one."""

    def __init__(self, context: BuildContext, order: Spec[LayerOrder], residual: Spec[ResidualTopology]) -> None:
        super().__init__()
        self.phases = [(since, tuple(visits)) for since, visits in order().phases(context.layers)]
        self.visits = self.phases[-1][1]
        self.residual = residual(context)

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return tuple(since for since, _ in self.phases[1:])

    def update(self, progress: TrainingProgress) -> None:
        self.visits = [visits for since, visits in self.phases if since <= progress.fraction][-1]

    def run_block(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        x = self.residual(x, context, block)
        context.visit += 1
        return x


@register
class SequentialLayers(PhasedLayerSchedule):
    """One block after the other."""

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        order: Spec[LayerOrder] = part(EachLayerOnce),
        residual: Spec[ResidualTopology] = part(SequentialResidual),
    ) -> None:
        super().__init__(context, order, residual)

    def forward(self, x: Tensor, context: ForwardContext, blocks: Sequence[Block]) -> Tensor:
        stream: ResidualStream = x
        for i in self.visits:
            stream = self.run_block(stream, context, blocks[i])
        return self.residual.merge_lanes(stream)


@register
class UNet(PhasedLayerSchedule):
    """U-Net skips: the first half of the visits push their outputs, the second half pop them, adjacent pair first.

    Skip j goes in before visit n/2 + j (the baseline). With an odd number of visits the last one has none.
    There are skips for the longest plan; a shorter one uses the first of them.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        order: Spec[LayerOrder] = part(EachLayerOnce),
        residual: Spec[ResidualTopology] = part(SequentialResidual),
        skip: Spec[SkipConnection] = part(WeightedSkip),
    ) -> None:
        super().__init__(context, order, residual)
        self.skip = skip(context.for_matrix(max(len(visits) for _, visits in self.phases) // 2, context.dim))

    def forward(self, x: Tensor, context: ForwardContext, blocks: Sequence[Block]) -> Tensor:
        half = len(self.visits) // 2
        stream: ResidualStream = x
        skips: list[ResidualStream] = []
        for i in self.visits[:half]:
            stream = self.run_block(stream, context, blocks[i])
            skips.append(stream)
        for j, i in enumerate(self.visits[half:]):
            if skips:
                stream = self.residual.merge_skip(stream, self.skip, skips.pop(), j, blocks[i])
            stream = self.run_block(stream, context, blocks[i])
        return self.residual.merge_lanes(stream)
