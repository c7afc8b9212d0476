"""Parallel and two-lane residual topologies against the published formulas in float64."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.backout import BackoutResidual
from bitgolf.model.block import Block, ResidualTopology
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.interfaces import ResidualStreamPart
from bitgolf.model.layer_orders import LoopedLayers
from bitgolf.model.layer_schedule import GatedSkip, SequentialLayers, UNet
from bitgolf.model.lm import LM
from bitgolf.model.numerics import rms_norm
from bitgolf.model.residual import MixX0
from bitgolf.model.residual_topology import (
    ParallelResidual,
    ParallelTwoLaneResidual,
    SequentialTwoLaneResidual,
    TwoLaneResidual,
)
from bitgolf.model.token_gate import TokenGatedResidual
from helpers.toy import built, toy_model

LAYERS = 5


@pytest.fixture
def ids() -> Tensor:
    ids = torch.randint(2, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 1
    return ids


def wired(wiring: Spec[ResidualTopology], *, skips: bool = True) -> Spec[LM]:
    """The toy model with five layers and, if `skips`, skips that are merged before layers 2 and 3."""
    depth = part(UNet, residual=wiring, skip=part(GatedSkip)) if skips else part(SequentialLayers, residual=wiring)
    return toy_model().replace(layers=LAYERS).set("layer_schedule", depth)


class Formula:
    """The published equations in float64, for one stream or two lanes, with the weights of a model."""

    def __init__(self, model: LM, ids: Tensor) -> None:
        self.model, self.context = model.double(), ForwardContext(ids)
        self.x0 = self.context.x0 = rms_norm(model.embed(ids))
        self.blocks = [cast(Block, block) for block in model.blocks]
        self.depth = cast(Any, model.layer_schedule)

    def mixed(self, i: int, x: Tensor) -> Tensor:
        m0, m1 = cast(MixX0, self.blocks[i].pre_block[0]).weight
        return m0 * x + m1 * self.x0

    def attention(self, i: int, x: Tensor) -> Tensor:
        block = self.blocks[i]
        scale = cast(Any, block.mixer_scale[0]).weight
        return scale * cast(nn.Module, block.mixer)(rms_norm(x), self.context)

    def mlp(self, i: int, x: Tensor) -> Tensor:
        block = cast(Any, self.blocks[i])
        u = torch.relu(rms_norm(x) @ block.mlp.up.weight.T)
        return block.mlp_scale[0].weight * ((u * u) @ block.mlp.down.weight.T)

    def skip(self, j: int, x: Tensor, value: Tensor) -> Tensor:
        gate = self.depth.skip.gate[j].sigmoid()
        return gate * x + (1 - gate) * self.depth.skip.weight[j] * value

    def serial(self, i: int, x: Tensor) -> Tensor:
        x = self.mixed(i, x)
        x = x + self.attention(i, x)
        return x + self.mlp(i, x)

    def logits(self, x: Tensor) -> Tensor:
        return self.model.logits(rms_norm(x))


def test_parallel_layers_by_formula(ids: Tensor) -> None:
    model = built(wired(part(ParallelResidual, layers="1,3-4"), skips=False)).double()
    by, x = Formula(model, ids), rms_norm(model.embed(ids))
    for i in range(LAYERS):
        if i in (1, 3, 4):
            x = by.mixed(i, x)
            x = x + by.attention(i, x) + by.mlp(i, x)
        else:
            x = by.serial(i, x)
    assert torch.allclose(model(ids), by.logits(x), atol=1e-10)


def test_parallel_layers_have_no_parameters_and_must_exist() -> None:
    plain = toy_model().replace(layers=LAYERS)(BuildContext(vocab=64))
    parallel = wired(part(ParallelResidual, layers="last 2"), skips=False)(BuildContext(vocab=64))
    assert dict(plain.named_parameters()).keys() == dict(parallel.named_parameters()).keys()
    with pytest.raises(RecipeError, match=r"'7-10' must list layers from 0 to 4"):
        wired(part(ParallelResidual))(BuildContext(vocab=64))


def simultaneous(by: Formula, start: int, final: str) -> Tensor:
    """As in #1855: attention reads p mixed with x0, the MLP reads m, both before any update; skips go into p only."""
    x, lanes, stack = by.x0, None, []
    for i in range(LAYERS):
        value = stack.pop() if i >= 2 and stack else None
        if i < start:
            x = x if value is None else by.skip(i - 2, x, value)
            x = by.serial(i, x)
        else:
            p, m = lanes or (x, x)
            p = p if value is None else by.skip(i - 2, p, value)
            (a0, a1), (b0, b1) = by.depth.residual.post[i]
            rho_a, rho_m = by.depth.residual.resid[i]
            a, f = by.attention(i, by.mixed(i, p)), by.mlp(i, m)
            lanes = (rho_a * p + a0 * a + b0 * f, rho_m * m + a1 * a + b1 * f)
        if i < 2:
            stack.append(x)
    assert lanes is not None
    return {"mean": (lanes[0] + lanes[1]) / 2, "attn": lanes[0], "mlp": lanes[1]}[final]


def in_turn(by: Formula, start: int, final: str) -> Tensor:
    """As in #1204: the MLP reads the lane that attention has updated, mixed with x0; skips go into both lanes."""
    x, lanes, stack = by.x0, None, []
    for i in range(LAYERS):
        value = stack.pop() if i >= 2 and stack else None
        if i < start:
            x = x if value is None else by.skip(i - 2, x, value)
            x = by.serial(i, x)
        else:
            p, m = lanes or (x, x)
            if value is not None:
                p, m = (
                    by.skip(i - 2, lane, v)
                    for lane, v in zip((p, m), value if isinstance(value, tuple) else (value, value), strict=True)
                )
            (a0, a1), (b0, b1) = by.depth.residual.post[i]
            rho_a, rho_m = by.depth.residual.resid[i]
            a = by.attention(i, by.mixed(i, p))
            p, m = rho_a * p + a0 * a, rho_a * m + a1 * a
            f = by.mlp(i, by.mixed(i, m))
            lanes = (rho_m * p + b0 * f, rho_m * m + b1 * f)
        if i < 2:
            stack.append(lanes or x)
    assert lanes is not None
    return {"mean": (lanes[0] + lanes[1]) / 2, "attn": lanes[0], "mlp": lanes[1]}[final]


@pytest.mark.parametrize("final", ["mean", "attn", "mlp"])
@pytest.mark.parametrize("start", [2, 3, 4])
def test_two_lanes_by_formula(start: int, final: Any, ids: Tensor) -> None:
    """The lanes start before the first skip, between two skips, or after the last one."""
    model = built(wired(part(ParallelTwoLaneResidual, start_layer=start, final_lane=final))).double()
    assert torch.allclose(model(ids), Formula(model, ids).logits(simultaneous(Formula(model, ids), start, final)))


@pytest.mark.parametrize("final", ["mean", "attn", "mlp"])
@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_two_lanes_in_turn_by_formula(start: int, final: Any, ids: Tensor) -> None:
    """Includes lanes that start in the first half, where each lane is saved and merged separately."""
    model = built(wired(part(SequentialTwoLaneResidual, start_layer=start, final_lane=final))).double()
    assert torch.allclose(model(ids), Formula(model, ids).logits(in_turn(Formula(model, ids), start, final)))


@pytest.mark.parametrize("kind", [ParallelTwoLaneResidual, SequentialTwoLaneResidual])
def test_lanes_in_a_looped_model_stay_open(kind: Any, ids: Tensor) -> None:
    order = part(LoopedLayers, first_layer=1, last_layer=3, since=(0.0,))
    spec = wired(part(kind, start_layer=3), skips=False).set("layer_schedule.order", order)
    model = built(spec)
    lanes: list[int] = []
    model.layer_schedule.residual.register_forward_hook(lambda m, i, o: lanes.append(2 if isinstance(o, tuple) else 1))  # type: ignore[union-attr,operator]
    assert model(ids).shape == (2, 20, 64)
    assert lanes == [1, 1, 1, 2, 2, 2, 2, 2], "visits 0 1 2 3 1 2 3 4"


def hidden(model: LM, ids: Tensor) -> tuple[Tensor, Tensor]:
    """x0, and the stream after the last block."""
    context = ForwardContext(ids)
    context.x0 = rms_norm(model.embed(ids))
    return context.x0, model.layer_schedule(context.x0, context, model.blocks)


@pytest.mark.parametrize("final", ["mean", "attn", "mlp"])
@pytest.mark.parametrize("kind", [ParallelTwoLaneResidual, SequentialTwoLaneResidual])
def test_silent_branches_leave_powers_of_1_1(kind: Any, final: Any, ids: Tensor) -> None:
    """Initially all branches are zero: after k layers, each lane and their mean are 1.1^k x."""
    model = wired(part(kind, start_layer=2, final_lane=final), skips=False)(BuildContext(vocab=64)).double()
    x0, x = hidden(model, ids)
    assert torch.allclose(x, 1.1 ** (LAYERS - 2) * x0, rtol=1e-6)


def test_with_all_weights_one_and_shared_reads_two_lanes_are_the_parallel_form(ids: Tensor) -> None:
    """x0 is not mixed in, so that attention and the MLP read the same stream."""
    lanes = built(wired(part(ParallelTwoLaneResidual, start_layer=2), skips=False))
    parallel = built(wired(part(ParallelResidual, layers="2-4"), skips=False))
    for block in lanes.blocks:
        block.pre_block[0].weight.data.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 32))  # type: ignore[union-attr,index]
    wiring = cast(TwoLaneResidual, lanes.layer_schedule.residual)  # type: ignore[union-attr]
    wiring.post.data.fill_(1.0)
    wiring.resid.data.fill_(1.0)
    own = dict(parallel.named_parameters())
    parallel.load_state_dict({k: w for k, w in lanes.state_dict().items() if k in own})
    assert torch.allclose(lanes(ids), parallel(ids), atol=1e-5)
    wiring.resid.data.fill_(1.1)
    assert (lanes(ids) - parallel(ids)).abs().max() > 1e-3


def test_the_published_counts_and_starts() -> None:
    """66 parameters for eleven layers, for every `start_layer` (part of the 35,945,671 parameters of #1855)."""
    at = BuildContext(vocab=64, dim=8, layers=11)
    for lanes, resid in ((ParallelTwoLaneResidual(at), 1.1), (SequentialTwoLaneResidual(at), 1.1**0.5)):
        assert [tuple(p.shape) for p in lanes.parameters()] == [(11, 2, 2), (11, 2)]
        assert (lanes.post == 1).all() and torch.allclose(lanes.resid, torch.tensor(resid))
    assert ParallelTwoLaneResidual(at).start_layer == 8 and SequentialTwoLaneResidual(at).start_layer == 7


@pytest.mark.parametrize(("start", "message"), [(-1, "from 0 to 999, got -1"), (5, "of 5 layers, got 5")])
def test_lanes_must_start_at_a_layer(start: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        wired(part(ParallelTwoLaneResidual, start_layer=start))(BuildContext(vocab=64))


def test_what_leaves_a_block_has_no_place_in_lanes(ids: Tensor) -> None:
    spec = wired(part(ParallelTwoLaneResidual, start_layer=3)).edit("block", append(post_block=part(MixX0)))
    with pytest.raises(RecipeError, match=r"cannot have `post_block` parts, got"):
        built(spec)(ids)


def test_in_the_parallel_form_it_has(ids: Tensor) -> None:
    """A `post_block` part acts on the sum of both branches."""
    model = built(
        wired(part(ParallelResidual, layers="0-4"), skips=False).edit("block", append(post_block=part(MixX0)))
    ).double()
    by, x = Formula(model, ids), rms_norm(model.embed(ids))
    for i, block in enumerate(by.blocks):
        x = by.mixed(i, x)
        x = x + by.attention(i, x) + by.mlp(i, x)
        m0, m1 = cast(MixX0, block.post_block[0]).weight
        x = m0 * x + m1 * by.x0
    assert torch.allclose(model(ids), by.logits(x), atol=1e-10)


# ---- a gate for each token, and a snapshot for late attention --------------------------------------------------------


def test_a_token_gate_by_formula(ids: Tensor) -> None:
    """x + sigmoid(w x + b) (y - x) in every layer, with skips."""
    model = built(wired(part(TokenGatedResidual))).double()
    by, x, stack = Formula(model, ids), rms_norm(model.embed(ids)), list[Tensor]()
    for i in range(LAYERS):
        x = by.skip(i - 2, x, stack.pop()) if i >= 2 and stack else x
        x = by.mixed(i, x)
        y = x + by.attention(i, x)
        y = y + by.mlp(i, y)
        gate = by.depth.residual
        x = x + (x @ gate.weight[i] + gate.bias[i]).sigmoid()[..., None] * (y - x)
        if i < 2:
            stack.append(x)
    assert torch.allclose(model(ids), by.logits(x), atol=1e-10)


def test_a_token_gate_starts_equal_for_all_and_sends_no_gradient_to_its_input(ids: Tensor) -> None:
    wiring = TokenGatedResidual(BuildContext(vocab=64, dim=32, layers=LAYERS))
    x = torch.randn(2, 5, 32, requires_grad=True)
    gate = wiring.gate(x, 3)
    assert torch.allclose(gate, torch.tensor(2.0).sigmoid().expand(2, 5, 1))
    gate.sum().backward()
    assert x.grad is None and wiring.weight.grad is not None and wiring.weight.grad[3].abs().min() > 0
    assert not wiring.weight.grad[[0, 1, 2, 4]].any(), "a layer has a row of its own"


def with_snapshot(by: Formula, late: int, visits: list[int]) -> Tensor:
    """As in the script of #1512, for `late` layers after the one that provides the snapshot."""
    x, snapshot, stack, half = by.x0, None, list[Tensor](), len(visits) // 2
    for n, i in enumerate(visits):
        x = by.skip(n - half, x, stack.pop()) if n >= half and stack else x
        x = by.mixed(i, x)
        x = x + by.attention(i, x if snapshot is None or i < LAYERS - late - 1 else snapshot)
        x = x + by.mlp(i, x)
        snapshot = x if i == LAYERS - late - 1 and snapshot is None else snapshot
        if n < half:
            stack.append(x)
    assert snapshot is not None
    return x - by.depth.residual.weight * snapshot


@pytest.mark.parametrize("late", [1, 2, 4])
def test_backout_by_formula(late: int, ids: Tensor) -> None:
    """The snapshot is taken in the second half, in the middle, or in the first half, whose outputs are skips."""
    model = built(wired(part(BackoutResidual, layers=late))).double()
    by = Formula(model, ids)
    assert torch.allclose(model(ids), by.logits(with_snapshot(by, late, [0, 1, 2, 3, 4])), atol=1e-10)


def test_a_loop_does_not_renew_the_snapshot(ids: Tensor) -> None:
    order = part(LoopedLayers, first_layer=1, last_layer=3, since=(0.0,))
    model = built(wired(part(BackoutResidual, layers=2)).set("layer_schedule.order", order)).double()
    by = Formula(model, ids)
    assert torch.allclose(model(ids), by.logits(with_snapshot(by, 2, [0, 1, 2, 3, 1, 2, 3, 4])), atol=1e-10)


def test_backout_starts_at_one_half_and_needs_a_layer_before() -> None:
    model = wired(part(BackoutResidual))(BuildContext(vocab=64))
    assert model.layer_schedule.residual.weight.item() == 0.5  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="layers must be between 1 and 4, got 5"):
        wired(part(BackoutResidual, layers=5))(BuildContext(vocab=64))


class Echo(ResidualStreamPart):
    """Adds half of the previous position."""

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x + 0.5 * context.token_shift(self, x)


@pytest.mark.parametrize(
    "wiring",
    [
        part(ParallelTwoLaneResidual, start_layer=2),
        part(SequentialTwoLaneResidual, start_layer=1),
        part(ParallelResidual, layers="1"),
        part(BackoutResidual, layers=2),
        part(TokenGatedResidual),
    ],
)
def test_what_remembers_may_stand_before_both_branches(wiring: Spec[ResidualTopology], ids: Tensor) -> None:
    """Incremental decoding equals one pass, with skips, and if `pre_block` is executed twice per layer."""
    model = built(wired(wiring).edit("block", replace(pre_block=(part(MixX0), part(Echo)))))
    whole, reader = model(ids), IncrementalDecoder(model, len(ids), window=32, stride=16)
    for t in range(1, ids.shape[1]):
        assert (reader.logits - whole[:, t - 1]).abs().max() < 1e-4, t
        reader.step(ids[:, t])
