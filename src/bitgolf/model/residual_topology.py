"""Residual topologies: attention and MLP one after the other, in parallel, or on two streams (lanes) of their own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.block import Block, ResidualTopology
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStream, SkipConnection, as_lanes
from bitgolf.model.part import parse_layers

FinalLane = Literal["mean", "attn", "mlp"]


def apply_pre_block(block: Block, x: Tensor, context: ForwardContext) -> Tensor:
    """What a branch of the block reads of the stream x (B, T, D), before its norm."""
    for p in block.pre_block:
        x = p(x, context)
    return x


@register
class SequentialResidual(ResidualTopology):
    """The second branch reads what the first has written."""

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        return block(x, context)


@register
class ParallelResidual(ResidualTopology):
    """x + Attention(norm(x)) + MLP(norm(x)) in these layers, one after the other elsewhere.

    The form of GPT-J (Wang and Komatsuzaki 2021; Parameter Golf #1412, #1493). It has no parameters.
    """

    def __init__(self, context: BuildContext, /, *, layers: str = "7-10") -> None:
        super().__init__()
        self.layers = parse_layers(layers, context.layers)

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        if block.layer not in self.layers:
            return block(x, context)
        assert isinstance(x, Tensor)  # one stream: no other topology opens lanes
        x = apply_pre_block(block, x, context)
        x = x + block.mixer_branch(x, context) + block.mlp_branch(x)
        for p in block.post_block:
            x = p(x, context)
        return x


class TwoLaneResidual(ResidualTopology):
    """Two streams from layer `start_layer` on, one read by attention and one by the MLP.

    Each layer has weights for what a branch writes into either lane, post (L, 2, 2) = [branch, lane], started at 1,
    and for what stays, resid (L, 2). Layers before `start_layer` have them too, unused: so the published counts have it.
    With `num_weights` only the last so many layers have them (#1204 counted its layers without the repeats); 0 is all.
    At the end the lanes' mean goes on, or one of them. Once open, lanes stay open, also in earlier layers of a loop.
    """

    roles = {"post": "scale", "resid": "scale"}

    def __init__(
        self, context: BuildContext, start_layer: int, final_lane: FinalLane, num_weights: int, resid: float
    ) -> None:
        super().__init__()
        num_weights = num_weights or context.layers
        if not 0 <= context.layers - num_weights <= start_layer < context.layers:
            cause = (
                f"lanes cannot start at layer {start_layer} of {context.layers} with weights for the last {num_weights}"
            )
            raise RecipeError(cause, where="layer_schedule.residual.start_layer")
        self.start_layer, self.final_lane, self.layers_without_weights = (
            start_layer,
            final_lane,
            context.layers - num_weights,
        )
        self.post = nn.Parameter(torch.ones(num_weights, 2, 2))
        self.resid = nn.Parameter(torch.full((num_weights, 2), resid))

    def layer_weights(self, block: Block, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """post (2, 2) and resid (2) of a block in this type; the first layer's serve those of a loop that have none."""
        row = max(block.layer - self.layers_without_weights, 0)
        return self.post[row].to(kind), self.resid[row].to(kind)

    def open_lanes(self, x: ResidualStream, block: Block) -> ResidualStream:
        """The stream as this block takes it: two lanes, both as the one was, where they begin."""
        if isinstance(x, tuple) or block.layer < self.start_layer:
            return x
        if len(block.post_block):
            raise RecipeError("a block with two lanes has no place for `post_block`", where="model.block.post_block")
        return x, x

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        x = self.open_lanes(x, block)
        return self.run_block(*x, context, block) if isinstance(x, tuple) else block(x, context)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        """One visit: attention's lane a and the MLP's b, both (B, T, D)."""
        raise NotImplementedError

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        a, b = as_lanes(x)
        return 0.5 * (a + b) if self.final_lane == "mean" else (a if self.final_lane == "attn" else b)


@register
class ParallelTwoLaneResidual(TwoLaneResidual):
    """Both branches read before either writes: Parameter Golf #1530 to #1855.

    Attention reads its lane as the chain `apply_pre_block` leaves it, the MLP its own lane as it is. resid starts at 1.1 and has
    one weight a lane. Skips go into attention's lane only.
    """

    def __init__(
        self, context: BuildContext, /, *, start_layer: int = 8, final_lane: FinalLane = "mean", num_weights: int = 0
    ) -> None:
        super().__init__(context, start_layer, final_lane, num_weights, 1.1)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        mixed, fed = block.mixer_branch(apply_pre_block(block, a, context), context), block.mlp_branch(b)
        return (
            resid[0] * a + post[0, 0] * mixed + post[1, 0] * fed,
            resid[1] * b + post[0, 1] * mixed + post[1, 1] * fed,
        )

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: Block
    ) -> ResidualStream:
        x, saved = self.open_lanes(x, block), as_lanes(saved)[0]
        return (skip(x[0], saved, j), x[1]) if isinstance(x, tuple) else skip(x, saved, j)


@register
class SequentialTwoLaneResidual(TwoLaneResidual):
    """Attention writes before the MLP reads: Parameter Golf #1204.

    Both read their lane as the chain `apply_pre_block` leaves it. resid starts at sqrt(1.1) and has one weight a branch, for
    both lanes, so that a layer multiplies them by 1.1. Skips go into both lanes.
    """

    def __init__(
        self, context: BuildContext, /, *, start_layer: int = 7, final_lane: FinalLane = "mean", num_weights: int = 0
    ) -> None:
        super().__init__(context, start_layer, final_lane, num_weights, 1.1**0.5)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        mixed = block.mixer_branch(apply_pre_block(block, a, context), context)
        a, b = resid[0] * a + post[0, 0] * mixed, resid[0] * b + post[0, 1] * mixed
        context.visit += 1  # `apply_pre_block` runs again: parts that remember tell its two readings apart by the visit
        fed = block.mlp_branch(apply_pre_block(block, b, context))
        return resid[1] * a + post[1, 0] * fed, resid[1] * b + post[1, 1] * fed
