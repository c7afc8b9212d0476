"""Properties of the parts of the baseline, from the published descriptions of the techniques."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SlidingWindowMask
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.layer_schedule import SequentialLayers, UNet, WeightedSkip
from bitgolf.model.logits_transforms import Softcap
from bitgolf.model.mlp import SquaredLeakyReLU, SquaredReLU
from bitgolf.model.parameters import parameter_roles
from bitgolf.model.part import only, parse_layers
from bitgolf.model.residual import MixX0
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=32, layers=3, layer=0, heads=4, kv_heads=2)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))


def test_at_initialisation_every_block_is_the_identity(ids: Tensor) -> None:
    """Output projections are initialized to zero, so the logits are those of the embedding alone."""
    model = toy_model()(BuildContext(vocab=VOCAB))
    x = model.norm(model.post_embed[0](model.embed(ids), ForwardContext(ids)))
    assert torch.allclose(model(ids), model.logits(x), atol=1e-6)


def test_grouped_queries_equal_full_attention_with_repeated_keys() -> None:
    core, full = SDPACore(AT), SDPACore(AT._replace(kv_heads=4))
    q, k, v = (torch.randn(2, 7, n, 8) for n in (4, 2, 2))
    context = ForwardContext(torch.zeros(2, 7, dtype=torch.int64))
    repeated = full(q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2), context)
    assert torch.allclose(core(q, k, v, context), repeated, atol=1e-6)


def test_rope_depends_on_distance_only_and_keeps_norms() -> None:
    rope, context = RoPE(AT), ForwardContext(torch.zeros(1, 12, dtype=torch.int64))
    q = torch.randn(1, 1, 1, 8).expand(1, 12, 1, 8)
    k = torch.randn(1, 1, 1, 8).expand(1, 12, 1, 8)
    turned_q, turned_k = rope(q, k, context)
    products = (turned_q[0, :, 0] @ turned_k[0, :, 0].T).double()
    for distance in range(12):
        diagonal = products.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned_q[:, 0], q[:, 0]), "position 0 is the identity"


def test_partial_rope_leaves_the_rest_alone() -> None:
    rope, context = RoPE(AT, dims=4), ForwardContext(torch.zeros(1, 5, dtype=torch.int64))
    q, k = torch.randn(1, 5, 4, 8), torch.randn(1, 5, 2, 8)
    turned_q, _ = rope(q, k, context)
    assert torch.equal(turned_q[..., 4:], q[..., 4:]) and not torch.equal(turned_q[..., :4], q[..., :4])
    with pytest.raises(RecipeError, match="must rotate an even number of at most"):
        RoPE(AT, dims=9)


def test_query_norm_and_gain() -> None:
    context = ForwardContext(torch.zeros(1, 3, dtype=torch.int64))
    q, k = QKNorm(AT)(torch.randn(1, 3, 4, 8), torch.randn(1, 3, 2, 8), context)
    assert torch.allclose(q.square().mean(-1), torch.ones(1, 3, 4), atol=1e-4)
    gained, same = QGain(AT, init=2.5)(q, k, context)
    assert torch.allclose(gained.norm(dim=-1), torch.full((1, 3, 4), 2.5 * 8**0.5), atol=1e-3) and same is k


def test_softcap_is_bounded_odd_and_nearly_the_identity_near_zero() -> None:
    z = torch.linspace(-400, 400, 801)
    capped = Softcap(AT, cap=30.0)(z)
    assert capped.abs().max() <= 30 and torch.allclose(capped, -capped.flip(0), atol=1e-4)
    assert torch.allclose(Softcap(AT, cap=30.0)(z / 1000), z / 1000, atol=1e-3)


def test_activations() -> None:
    u = torch.linspace(-3, 3, 61, requires_grad=True)
    leaky, plain = SquaredLeakyReLU(AT, slope=0.5)(u), SquaredReLU(AT)(u)
    assert (leaky >= 0).all() and torch.allclose(leaky[30:], plain[30:])
    assert torch.allclose(leaky[:30], 0.25 * u[:30].square())
    at = torch.tensor(-1.0, requires_grad=True)
    SquaredLeakyReLU(AT, slope=0.5)(at).backward()
    assert at.grad is not None and at.grad.item() == pytest.approx(-0.5)


def test_a_window_hides_what_is_further_back(ids: Tensor) -> None:
    """With a single layer, a token depends on the `left` previous tokens only."""
    one = built(toy_model().replace(layers=1).edit(SDPACore, append(masks=part(SlidingWindowMask, left=4))))
    for changed, first_free in ((5, 10), (6, 11)):
        other = ids.clone()
        other[:, changed] = (other[:, changed] + 5) % (VOCAB - 2) + 2
        difference = (one(ids) - one(other)).abs().amax((0, 2))
        assert difference[first_free:].max() < 1e-6 and difference[first_free - 1] > 1e-5


def test_documents_are_told_apart_by_the_bos_of_the_place(ids: Tensor) -> None:
    ids[:, 10] = 9
    spec = toy_model().edit(SDPACore, append(masks=part(DocumentMask)))
    torch.manual_seed(0)
    model = spec(BuildContext(vocab=VOCAB, bos=9))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    other = ids.clone()
    other[:, :10] = (other[:, :10] + 5) % (VOCAB - 12) + 12
    assert (model(ids) - model(other))[:, 10:].abs().max() < 1e-5


class Recorder(nn.Module):
    """A block that adds 10**number to the stream."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        return x + 10.0**self.number


@pytest.mark.parametrize("layers", [1, 2, 5, 9])
def test_unet_pairs_adjacent_layers_first(layers: int) -> None:
    unet = UNet(BuildContext(vocab=4, dim=1, layers=layers))
    weight = cast(WeightedSkip, unet.skip).weight
    weight.data.copy_(torch.arange(2.0, 2 + len(weight))[:, None])  # different weights show the order of the skips
    unet.double()
    blocks = nn.ModuleList(Recorder(i) for i in range(layers))
    out = unet(torch.zeros(1, 1, 1, dtype=torch.float64), ForwardContext(torch.zeros(1, 1)), blocks)
    x, outputs = torch.zeros((), dtype=torch.float64), []
    for i in range(layers):
        if i >= layers // 2 and outputs:
            x = x + (2 + i - layers // 2) * outputs.pop()
        x = x + 10.0**i
        if i < layers // 2:
            outputs.append(x)
    assert out.item() == pytest.approx(x.item(), rel=1e-12) and len(weight) == layers // 2


def test_straight_visits_every_block_once() -> None:
    blocks = nn.ModuleList(Recorder(i) for i in range(4))
    out = SequentialLayers(BuildContext(vocab=4, dim=1, layers=4))(
        torch.zeros(1, 1, 1), ForwardContext(torch.zeros(1, 1)), blocks
    )
    assert out.item() == 1111


def test_x0_mixes_as_it_says() -> None:
    mix, context = MixX0(AT), ForwardContext(torch.zeros(1, 1))
    context.x0 = torch.full((1, 1, 32), 3.0)
    mix.weight.data.copy_(torch.stack([torch.full((32,), 0.5), torch.full((32,), 2.0)]))
    assert torch.equal(mix(torch.ones(1, 1, 32), context), torch.full((1, 1, 32), 6.5))


@pytest.mark.parametrize(
    ("text", "layers"), [("0-2", {0, 1, 2}), ("1,3", {1, 3}), ("last 2", {3, 4}), ("first 1", {0}), ("0, 4", {0, 4})]
)
def test_layers_by_text(text: str, layers: set[int]) -> None:
    assert parse_layers(text, 5) == layers


@pytest.mark.parametrize("text", ["", "5", "first", "last 6", "a-b", "3-1", "-1"])
def test_layers_that_do_not_fit_are_errors(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_layers(text, 5)


def test_a_part_on_some_layers_only() -> None:
    spec = toy_model().edit("block", replace(pre_block=(only("last 1", part(MixX0)),)))
    model = spec(BuildContext(vocab=VOCAB))
    assert [len(block.pre_block) for block in model.blocks] == [0, 0, 1]  # type: ignore[union-attr,arg-type]
    assert [path for path in parameter_roles(model) if "pre_block" in path] == ["blocks.2.pre_block.0.weight"]
    with pytest.raises(RecipeError, match="ResidualStreamPart"):
        toy_model().edit("block", replace(pre_block=(only("0", part(QKNorm)),)))


def test_heads_must_divide() -> None:
    with pytest.raises(RecipeError, match="must divide"):
        toy_model().edit(Attention, replace(heads=5))(BuildContext(vocab=VOCAB))
