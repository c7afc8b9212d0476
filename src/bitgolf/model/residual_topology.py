"""Residual topologies: attention and MLP in sequence, in parallel, or on two lanes of the residual stream."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import LayerCountOrZero, LayerIndex
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.model.block import Block, ResidualTopology
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStream, SkipConnection, as_lanes
from bitgolf.model.part import parse_layers

FinalLane = Literal["mean", "attn", "mlp"]


def apply_pre_block(block: Block, x: Tensor, context: ForwardContext) -> Tensor:
    """Apply the `pre_block` chain of a block to the stream x (B, T, D): the input of a branch before its norm."""
    for p in block.pre_block:
        x = p(x, context)
    return x


@register
class SequentialResidual(ResidualTopology):
    """The MLP reads the stream to which attention has been added."""

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        return block(x, context)


@register
class ParallelResidual(ResidualTopology):
    """x + Attention(norm(x)) + MLP(norm(x)) in the given layers; `SequentialResidual` in all others.

    As in GPT-J (Wang and Komatsuzaki, 2021; Parameter Golf #1412, #1493). It has no parameters.
    """

    def __init__(self, context: BuildContext, /, *, layers: str = "7-10") -> None:
        super().__init__()
        self.layers = parse_layers(layers, context.layers)

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        if block.layer not in self.layers:
            return block(x, context)
        assert isinstance(x, Tensor)  # two lanes occur with `TwoLaneResidual` only
        x = apply_pre_block(block, x, context)
        x = x + block.mixer_branch(x, context) + block.mlp_branch(x)
        for p in block.post_block:
            x = p(x, context)
        return x


class TwoLaneResidual(ResidualTopology):
    """Two lanes of the residual stream from layer `start_layer` on: attention reads one, the MLP the other.

    Learned weights of L layers: post (L, 2, 2), indexed [layer, branch, lane] and initialized to 1, multiplies the
    output of a branch; resid (L, 2) multiplies the lanes. Layers before `start_layer` have unused weights, which are
    part of the published parameter counts. `num_weights` gives weights to the last layers only (#1204 numbers its
    layers without the repeats); 0 means all layers. `final_lane` selects one lane or the mean of both after the last
    block. Two lanes are kept until then, also in earlier layers of a loop.
    """

    roles = {"post": "scale", "resid": "scale"}

    def __init__(
        self, context: BuildContext, start_layer: int, final_lane: FinalLane, num_weights: int, resid: float
    ) -> None:
        super().__init__()
        num_weights = num_weights or context.layers
        if not 0 <= context.layers - num_weights <= start_layer < context.layers:
            message = f"must be one of the last {num_weights} of {context.layers} layers, got {start_layer}"
            hint = "only these layers have weights; see num_weights"
            raise RecipeError(message, where="layer_schedule.residual.start_layer", hint=hint)
        self.start_layer, self.final_lane, self.layers_without_weights = (
            start_layer,
            final_lane,
            context.layers - num_weights,
        )
        self.post = nn.Parameter(torch.ones(num_weights, 2, 2))
        self.resid = nn.Parameter(torch.full((num_weights, 2), resid))

    def layer_weights(self, block: Block, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """post (2, 2) and resid (2,) of a block with dtype `kind`.

        Layers without weights, which a loop may visit with two lanes, use those of the first layer that has weights.
        """
        row = max(block.layer - self.layers_without_weights, 0)
        return self.post[row].to(kind), self.resid[row].to(kind)

    def open_lanes(self, x: ResidualStream, block: Block) -> ResidualStream:
        """The stream as input of this block: from `start_layer` on, one tensor becomes two equal lanes.

        Raises `RecipeError` if such a block has `post_block` parts.
        """
        if isinstance(x, tuple) or block.layer < self.start_layer:
            return x
        if len(block.post_block):
            names = ", ".join(type(p).__name__ for p in block.post_block)
            message = f"a block with two lanes cannot have `post_block` parts, got {names}"
            raise RecipeError(message, where="model.block.post_block")
        return x, x

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        x = self.open_lanes(x, block)
        return self.run_block(*x, context, block) if isinstance(x, tuple) else block(x, context)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        """Execute a block with the lane a of attention and the lane b of the MLP, both (B, T, D)."""
        raise NotImplementedError

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        a, b = as_lanes(x)
        return 0.5 * (a + b) if self.final_lane == "mean" else (a if self.final_lane == "attn" else b)


@register
class ParallelTwoLaneResidual(TwoLaneResidual):
    """Attention and MLP both read their lane before either writes: Parameter Golf #1530 to #1855.

    Attention reads its lane after the `pre_block` chain, the MLP reads its lane directly. resid has one weight per lane
    and is initialized to 1.1. Skips are merged into the lane of attention only.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        start_layer: LayerIndex = 8,
        final_lane: FinalLane = "mean",
        num_weights: LayerCountOrZero = 0,
    ) -> None:
        super().__init__(context, start_layer, final_lane, num_weights, 1.1)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        attn_out, mlp_out = block.mixer_branch(apply_pre_block(block, a, context), context), block.mlp_branch(b)
        return (
            resid[0] * a + post[0, 0] * attn_out + post[1, 0] * mlp_out,
            resid[1] * b + post[0, 1] * attn_out + post[1, 1] * mlp_out,
        )

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: Block
    ) -> ResidualStream:
        x, saved = self.open_lanes(x, block), as_lanes(saved)[0]
        return (skip(x[0], saved, j), x[1]) if isinstance(x, tuple) else skip(x, saved, j)


@register
class SequentialTwoLaneResidual(TwoLaneResidual):
    """Attention writes to both lanes before the MLP reads: Parameter Golf #1204.

    Both branches read their lane after the `pre_block` chain. resid has one weight per branch, used for both lanes and
    initialized to sqrt(1.1), so that a layer multiplies each lane by 1.1. Skips are merged into both lanes.
    """

    def __init__(
        self,
        context: BuildContext,
        /,
        *,
        start_layer: LayerIndex = 7,
        final_lane: FinalLane = "mean",
        num_weights: LayerCountOrZero = 0,
    ) -> None:
        super().__init__(context, start_layer, final_lane, num_weights, 1.1**0.5)

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        attn_out = block.mixer_branch(apply_pre_block(block, a, context), context)
        a, b = resid[0] * a + post[0, 0] * attn_out, resid[0] * b + post[0, 1] * attn_out
        context.visit += 1  # `pre_block` runs a second time: parts with a state need another visit number
        mlp_out = block.mlp_branch(apply_pre_block(block, b, context))
        return resid[1] * a + post[1, 0] * mlp_out, resid[1] * b + post[1, 1] * mlp_out
