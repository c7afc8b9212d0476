"""Layer schedules: which blocks are executed, in which order, and U-Net skip connections between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import LayerCountOrZero
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
    """x + w_j * skip with w (skips, D), initialized to 1: the baseline's `skip_weights`."""

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(context.fan_in, context.dim))

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        return x + self.weight[index].to(x.dtype) * skip


@register
class GatedSkip(SkipConnection):
    """g * x + (1 - g) * w_j * skip with g = sigmoid(gate_j): Parameter Golf #1089.

    w (skips, D) is initialized to 1 and gate (skips, D) to 0, so that g is 0.5. As the gate grows, the skip vanishes.
    `num_weights` limits the rows of w and gate; further skips share the last row (#1285). 0 means one row per skip.
    """

    roles = {"weight": "scale", "gate": "scale"}

    def __init__(self, context: BuildContext, /, *, num_weights: LayerCountOrZero = 0) -> None:
        super().__init__()
        num_weights = min(num_weights or context.fan_in, context.fan_in)
        self.weight = nn.Parameter(torch.ones(num_weights, context.dim))
        self.gate = nn.Parameter(torch.zeros(num_weights, context.dim))

    def forward(self, x: Tensor, skip: Tensor, index: int) -> Tensor:
        row = min(index, len(self.weight) - 1)
        gate, weight = self.gate[row].sigmoid().to(x.dtype), self.weight[row].to(x.dtype)
        return gate * x + (1 - gate) * (weight * skip)


class PhasedLayerSchedule(LayerSchedule, Scheduled):
    """Executes blocks in a `LayerOrder`, which may change during training. A new schedule is in its last phase.

    An order may have other visits in evaluation mode than at the end of training.
    """

    def __init__(self, context: BuildContext, order: Spec[LayerOrder], residual: Spec[ResidualTopology]) -> None:
        super().__init__()
        built = order()
        self.phases = [(since, tuple(visits)) for since, visits in built.phases(context.layers)]
        self.visits = self.phases[-1][1]
        evaluated = tuple(built.evaluation_order(context.layers))
        self.evaluation_visits = None if evaluated == self.visits else evaluated
        self.residual = residual(context)

    @property
    def phase_starts(self) -> tuple[float, ...]:
        return tuple(since for since, _ in self.phases[1:])

    def update(self, progress: TrainingProgress) -> None:
        self.visits = [visits for since, visits in self.phases if since <= progress.fraction][-1]

    def current_visits(self) -> Sequence[int]:
        """Layer indices in the order of this pass."""
        return self.visits if self.training or self.evaluation_visits is None else self.evaluation_visits

    def run_block(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        """Execute a block through the residual topology, and count the visit."""
        x = self.residual(x, context, block)
        context.visit += 1
        return x


@register
class SequentialLayers(PhasedLayerSchedule):
    """Blocks one after the other, without skip connections."""

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
        for i in self.current_visits():
            stream = self.run_block(stream, context, blocks[i])
        return self.residual.merge_lanes(stream)


@register
class UNet(PhasedLayerSchedule):
    """U-Net skip connections: the first half of n visits push their outputs on a stack, the second half pop them.

    Skip j is merged before visit n/2 + j, as in the baseline. If n is odd, the last visit has no skip. There are
    weights for the longest phase of training; shorter phases use the first of them, and further visits in evaluation
    mode have no skips.
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
        self.skips = max(len(visits) for _, visits in self.phases) // 2
        self.skip = skip(context.for_matrix(self.skips, context.dim))

    def forward(self, x: Tensor, context: ForwardContext, blocks: Sequence[Block]) -> Tensor:
        visits = self.current_visits()
        half = len(visits) // 2
        stream: ResidualStream = x
        saved: list[ResidualStream] = []
        for i in visits[:half]:
            stream = self.run_block(stream, context, blocks[i])
            saved.append(stream)
        for j, i in enumerate(visits[half:]):
            if saved and j < self.skips:
                stream = self.residual.merge_skip(stream, self.skip, saved.pop(), j, blocks[i])
            stream = self.run_block(stream, context, blocks[i])
        return self.residual.merge_lanes(stream)
