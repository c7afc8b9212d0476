"""Token gate: how much of a block's change is added to the residual stream, decided for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.ranges import Finite
from bitgolf.config.registry import register
from bitgolf.model.block import Block, ResidualTopology
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStream
from bitgolf.model.residual_topology import apply_pre_block


@register
class TokenGatedResidual(ResidualTopology):
    """x + g * (y - x), where y is the stream after attention and MLP, and g = sigmoid(w x + b) is one number per token.

    x is the stream after the `pre_block` chain. No gradient flows into x through g. weight (layers, D) is initialized
    to 0 and bias (layers,) to `bias`: 2 gives g = 0.88. Called "DTG" in the scripts of Parameter Golf #549 to #1512, where it
    is switched off.
    """

    roles = {"weight": "gate", "bias": "scale"}

    def __init__(self, context: BuildContext, /, *, bias: Finite = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context.layers, context.dim))
        self.bias = nn.Parameter(torch.full((context.layers,), bias))

    def gate(self, x: Tensor, layer: int) -> Tensor:
        """Gate of each token, (B, T, 1), from the stream x (B, T, D)."""
        weight, bias = self.weight[layer : layer + 1], self.bias[layer : layer + 1]
        return F.linear(x.detach(), weight.to(x.dtype), bias.to(x.dtype)).sigmoid()

    def forward(self, x: ResidualStream, context: ForwardContext, block: Block) -> ResidualStream:
        assert isinstance(x, Tensor)  # two lanes occur with other topologies only
        x = apply_pre_block(block, x, context)
        y = x + block.mixer_branch(x, context)
        y = y + block.mlp_branch(y)
        x = x + self.gate(x, block.layer) * (y - x)
        for p in block.post_block:
            x = p(x, context)
        return x
