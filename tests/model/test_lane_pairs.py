"""Two lanes as a pair of tensors, compared with lanes stacked in one tensor, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStream, SkipConnection
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.lm import LM
from bitgolf.model.residual_topology import ParallelTwoLaneResidual, SequentialTwoLaneResidual, apply_pre_block
from helpers.toy import built, toy_model


def looped(wiring: type, start: int) -> Spec[LM]:
    """The toy model with five layers, eight visits and four skips."""
    loop = part(LoopedLayers, first_layer=1, last_layer=3, since=(0.0,))
    depth = part(UNet, residual=part(wiring, start_layer=start), skip=part(GatedSkip), order=loop)
    return toy_model().replace(layers=5).set("layer_schedule", depth)


def by_lane(weights: Tensor) -> Tensor:
    """Weights (2,) -> (2, 1, 1, 1), to multiply stacked lanes."""
    return weights[:, None, None, None]


class StackedLanes(ParallelTwoLaneResidual):
    """Both lanes in one tensor (2, B, T, D), as in the published formula."""

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        mixed, fed = block.mixer_branch(apply_pre_block(block, a, context), context), block.mlp_branch(b)
        x = by_lane(resid) * torch.stack([a, b]) + by_lane(post[0]) * mixed + by_lane(post[1]) * fed
        return x[0], x[1]

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        return torch.stack(x).mean(0) if isinstance(x, tuple) else x


class StackedLanesInTurn(SequentialTwoLaneResidual):
    """Stacked lanes for the topology in which the MLP reads the lane that attention has updated."""

    def run_block(self, a: Tensor, b: Tensor, context: ForwardContext, block: Block) -> ResidualStream:
        post, resid = self.layer_weights(block, a.dtype)
        x = resid[0] * torch.stack([a, b]) + by_lane(post[0]) * block.mixer_branch(
            apply_pre_block(block, a, context), context
        )
        x = resid[1] * x + by_lane(post[1]) * block.mlp_branch(apply_pre_block(block, x[1], context))
        return x[0], x[1]

    def merge_skip(
        self, x: ResidualStream, skip: SkipConnection, saved: ResidualStream, j: int, block: Block
    ) -> ResidualStream:
        if not isinstance(x, tuple):
            return super().merge_skip(x, skip, saved, j, block)
        blended = skip(torch.stack(x), torch.stack(saved) if isinstance(saved, tuple) else saved, j)
        return blended[0], blended[1]

    def merge_lanes(self, x: ResidualStream) -> Tensor:
        return torch.stack(x).mean(0) if isinstance(x, tuple) else x


@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize(
    ("pairs", "stacked"), [(ParallelTwoLaneResidual, StackedLanes), (SequentialTwoLaneResidual, StackedLanesInTurn)]
)
def test_a_pair_of_tensors_says_and_learns_what_one_stacked_tensor_would(pairs: Any, stacked: Any, start: int) -> None:
    """The loss and all gradients are equal."""
    ids = torch.randint(1, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    found = []
    for wiring in (pairs, stacked):
        model = built(looped(wiring, start)).double()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
        loss.backward()
        found.append((loss.detach(), {path: p.grad for path, p in model.named_parameters()}))
    (loss, gradients), (other, others) = found
    assert (loss - other).abs() < 1e-12 * other
    for path, gradient in others.items():
        assert (gradients[path] - gradient).norm() <= 1e-12 * gradient.norm(), path
        assert gradient.norm() > 0, path
