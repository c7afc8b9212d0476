"""Backout: attention of the last layers reads an earlier state of the stream, which is subtracted at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite, LayerCount
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.block import Block, ResidualTopology
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStream, SkipConnection, as_lanes
from bitgolf.model.residual_topology import apply_pre_block


@register
class BackoutResidual(ResidualTopology):
    """Attention of the last `layers` layers reads a snapshot s of the stream, taken before them, instead of the stream x.

    The MLPs read x as usual, and x - weight * s is the stream after the last block; weight () is learned and
    initialized to `weight`. Snapshot and stream are passed on as two lanes. Neither the `pre_block` chain nor a skip
    changes the snapshot, and a loop does not renew it.

    From the scripts of Parameter Golf #1512, where BACKOUT_LAYERS counts the layer before them too. They take the
    snapshot in the first half of the layers only, so their experiment with 3 of 11 layers had none: the difference that
    they report (1.1163 against 1.1151 bits per byte) is noise. Raises `RecipeError` unless the model has more than
    `layers` layers.
    """

    roles = {"weight": "scale"}

    def __init__(self, context: BuildContext, /, *, layers: LayerCount = 3, weight: Finite = 0.5) -> None:
        super().__init__()
        if not 1 <= layers < context.layers:
            raise RecipeError(
                f"layers must be between 1 and {context.layers - 1}, got {layers}",
                where="layer_schedule.residual.layers",
                hint=f"the model has {context.layers} layers, and one before these provides the snapshot",
            )
        self.snapshot_layer = context.layers - layers - 1
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        if not isinstance(x, tuple):
            y = block(x, context)
            return (y, y) if block.layer == self.snapshot_layer else y
        stream, snapshot = x
        stream = apply_pre_block(block, stream, context)
        source = snapshot if block.layer >= self.snapshot_layer else stream
        stream = stream + block.mixer_branch(source, context)
        stream = stream + block.mlp_branch(stream)
        for p in block.post_block:
            stream = p(stream, context)
        return stream, snapshot

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: Block
    ) -> ResidualStream:
        merged = skip(as_lanes(x)[0], as_lanes(saved)[0], j)
        return (merged, x[1]) if isinstance(x, tuple) else merged

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        stream, snapshot = as_lanes(x)
        return stream - self.weight.to(stream.dtype) * snapshot
