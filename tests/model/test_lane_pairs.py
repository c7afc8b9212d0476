"""Two lanes as a pair of tensors, against the same lanes stacked in one tensor, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.spec import Spec, part
from bitgolf.model.block import Block
from bitgolf.model.forward_context import Bus
from bitgolf.model.interfaces import Skip, Stream
from bitgolf.model.layer_orders import Loop
from bitgolf.model.layer_schedule import GatedSkip, UNet
from bitgolf.model.lm import LM
from bitgolf.model.residual_topology import TwoLanes, TwoLanesInTurn, enter
from helpers.toy import built, toy_model


def looped(wiring: type, start: int) -> Spec[LM]:
    """The toy model with five layers, eight visits and four skips."""
    loop = part(Loop, first=1, last=3, since=(0.0,))
    depth = part(UNet, wiring=part(wiring, start=start), skip=part(GatedSkip), order=loop)
    return toy_model().but(layers=5).set("depth", depth)


def by_lane(weights: Tensor) -> Tensor:
    """(2) -> (2, 1, 1, 1), to multiply stacked lanes."""
    return weights[:, None, None, None]


class StackedLanes(TwoLanes):
    """Both lanes in one tensor (2, B, T, D): the formula as it is usually written."""

    def step(self, a: Tensor, b: Tensor, bus: Bus, block: Block) -> Stream:
        post, resid = self.weights(block, a.dtype)
        mixed, fed = block.mix(enter(block, a, bus), bus), block.feed(b)
        x = by_lane(resid) * torch.stack([a, b]) + by_lane(post[0]) * mixed + by_lane(post[1]) * fed
        return x[0], x[1]

    def close(self, x: Stream) -> Tensor:
        return torch.stack(x).mean(0) if isinstance(x, tuple) else x


class StackedLanesInTurn(TwoLanesInTurn):
    """The same for lanes where the MLP reads what attention has written."""

    def step(self, a: Tensor, b: Tensor, bus: Bus, block: Block) -> Stream:
        post, resid = self.weights(block, a.dtype)
        x = resid[0] * torch.stack([a, b]) + by_lane(post[0]) * block.mix(enter(block, a, bus), bus)
        x = resid[1] * x + by_lane(post[1]) * block.feed(enter(block, x[1], bus))
        return x[0], x[1]

    def blend(self, x: Stream, skip: Skip, value: Stream, j: int, block: Block) -> Stream:
        if not isinstance(x, tuple):
            return super().blend(x, skip, value, j, block)
        blended = skip(torch.stack(x), torch.stack(value) if isinstance(value, tuple) else value, j)
        return blended[0], blended[1]

    def close(self, x: Stream) -> Tensor:
        return torch.stack(x).mean(0) if isinstance(x, tuple) else x


@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize(("pairs", "stacked"), [(TwoLanes, StackedLanes), (TwoLanesInTurn, StackedLanesInTurn)])
def test_a_pair_of_tensors_says_and_learns_what_one_stacked_tensor_would(pairs: Any, stacked: Any, start: int) -> None:
    """Loss and every gradient."""
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
