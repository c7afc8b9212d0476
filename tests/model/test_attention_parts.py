"""Parts on the keys and the output of attention (exclusive self-attention, gates, key offset), and attention masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append, replace
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import Attention, FusedAttention, QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SlidingWindowMask
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import (
    AttentionGate,
    DenseAttentionGate,
    LearnedChannelGate,
    LearnedHeadGate,
    NarrowAttentionGate,
    QueryAttentionGate,
    SparseAttentionGate,
)
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.attention.values import ValueResidual
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.parameters import parameter_roles
from helpers.toy import VOCAB, built, toy_model

AT = BuildContext(vocab=VOCAB, dim=32, layers=3, layer=0, heads=4, kv_heads=2)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def context_of(*ids: int) -> ForwardContext:
    return ForwardContext(torch.tensor([ids]))


def other_token(ids: Tensor, at: int | slice) -> Tensor:
    """The ids with other tokens at the positions `at`."""
    other = ids.clone()
    other[:, at] = (other[:, at] + 3) % (VOCAB - 2) + 2
    return other


# ---- one matrix for queries, keys and values ------------------------------------------------------------------------


def test_attention_with_one_matrix_is_attention_with_three() -> None:
    """The rows of queries come first, then those of keys, then those of values, as published."""
    settings: dict[str, Any] = {"heads": 4, "kv_heads": 2, "core": part(SDPACore), "qk": (part(QKNorm), part(RoPE))}
    three, one = part(Attention, **settings)(AT), part(FusedAttention, **settings)(AT)
    three.out.weight.data.copy_(normal(32, 32))
    weights = three.state_dict()
    stacked = torch.cat([weights.pop(f"{name}.weight") for name in "qkv"])
    one.load_state_dict(weights | {"qkv.weight": stacked})
    x, context = normal(1, 6, 32, seed=1), context_of(1, 5, 6, 1, 7, 8)
    assert stacked.shape == (64, 32) and torch.allclose(one(x, context), three(x, context), atol=1e-6)
    assert three(x, context).abs().max() > 0.1


# ---- exclusive self-attention ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Tensor]:
    tensors = load_file(shared / "oracles" / "micro.safetensors")
    return {k.removeprefix("xsa/"): t for k, t in tensors.items() if k.startswith("xsa/")}


def exclude(y: Tensor, v: Tensor, eps: float = 1e-12) -> Tensor:
    return ExclusiveSelfAttention(AT, eps=eps)(y, y.flatten(2), v)


def test_published_outputs_of_both_forms(oracle: dict[str, Tensor]) -> None:
    """The values of the oracle include a zero row and a row of magnitude 1e-5, where the two forms differ."""
    y, v = oracle["y"], oracle["v"]
    assert (exclude(y, v) - oracle["out_normalised_pr1855_1493_1512"]).abs().max() < 1e-6
    assert (exclude(y, v, 1e-4) - oracle["out_clamped_pr1090_formula"]).abs().max() < 1e-6


def test_published_gradients(oracle: dict[str, Tensor]) -> None:
    y, v = oracle["y"].clone().requires_grad_(), oracle["grad_v_input"].clone().requires_grad_()
    (exclude(y, v) * oracle["grad_weight"]).sum().backward()
    for ours, name in ((y.grad, "grad_y"), (v.grad, "grad_v")):
        assert ours is not None
        error = (ours - oracle[name]).abs().amax(-1) / oracle[name].abs().amax(-1).clamp_min(1.0)
        assert error.max() < 1e-5, name  # relative to each row: a tiny v has gradients of 1e4


def test_a_zero_value_leaves_the_output_alone_and_its_gradient_finite(oracle: dict[str, Tensor]) -> None:
    y, v = oracle["y"].clone().requires_grad_(), oracle["v"].clone().requires_grad_()
    out = exclude(y, v)
    zero = v.norm(dim=-1) == 0
    assert zero.sum() == 2 and torch.equal(out[0, 3], y[0, 3])
    out.square().sum().backward()
    assert y.grad is not None and v.grad is not None and y.grad.isfinite().all() and v.grad.isfinite().all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-3)])
def test_what_is_left_is_orthogonal_to_the_value(dtype: torch.dtype, limit: float) -> None:
    y, v = normal(2, 40, 4, 64, dtype=dtype), normal(2, 40, 2, 64, seed=1, dtype=dtype)
    out, repeated = exclude(y, v).double(), v.double().repeat_interleave(2, 2)
    cosine = (out * repeated).sum(-1) / (out.norm(dim=-1) * repeated.norm(dim=-1))
    assert out.norm() > 1 and cosine.abs().max() < limit


def test_excluding_twice_is_excluding_once() -> None:
    y, v = normal(1, 9, 4, 8), normal(1, 9, 2, 8, seed=1)
    once = exclude(y, v)
    assert (exclude(once, v) - once).abs().max() < 1e-6 and (once - y).abs().max() > 0.1


def test_grouped_heads_equal_repeated_values() -> None:
    y, v = normal(2, 9, 4, 8), normal(2, 9, 2, 8, seed=1)
    assert torch.allclose(exclude(y, v), exclude(y, v.repeat_interleave(2, 2)), atol=1e-6)
    assert not torch.allclose(exclude(y, v), exclude(y, v.repeat(1, 1, 2, 1)), atol=1e-2)


def test_a_gate_for_each_head_may_stand_before_or_behind() -> None:
    y, v, gate = normal(1, 9, 4, 8), normal(1, 9, 2, 8, seed=1), normal(1, 9, 4, 1, seed=2)
    assert torch.allclose(exclude(gate * y, v), gate * exclude(y, v), atol=1e-6)


def attention(**change: Any) -> Attention:
    """Attention of the toy model with random matrices and the identity as its output projection."""
    node: Spec[Any] = toy_model()["block.mixer"].replace(core=part(SDPACore, masks=(part(DocumentMask),)), **change)
    torch.manual_seed(0)
    mixer = node(AT)
    mixer.out.weight.data.copy_(torch.eye(32))
    return mixer


def test_the_first_position_of_a_document_attends_to_nothing() -> None:
    mixer = attention(post_attention=(part(ExclusiveSelfAttention),))
    out = mixer(normal(1, 9, 32), context_of(1, 5, 6, 7, 1, 9, 9, 1, 4)).abs().amax(-1)[0]
    starts = torch.tensor([0, 4, 7])
    assert out[starts].max() < 1e-6
    assert out[[t for t in range(9) if t not in starts]].min() > 1e-2


# ---- gates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "value"), [(part(NarrowAttentionGate), 1.0), (part(SparseAttentionGate, scale=0.5), 0.5)]
)
def test_narrow_gates_start_at_exactly_one_number(node: Spec[AttentionGate], value: float) -> None:
    y, v = normal(2, 5, 4, 8), normal(2, 5, 2, 8)
    assert torch.equal(node(AT)(y, normal(2, 5, 32), v), value * y)
    mixed, plain = attention(post_attention=(node,)), attention()
    x, context = normal(1, 6, 32), context_of(1, 2, 3, 4, 5, 6)
    assert torch.allclose(mixed(x, context), value * plain(x, context), atol=1e-6)


def test_the_dense_gate_starts_near_one_half_with_the_given_deviation() -> None:
    torch.manual_seed(0)
    wide = AT._replace(dim=512, heads=8)
    gate = DenseAttentionGate(wide)
    assert gate.weight.shape == (8, 512) and gate.weight.numel() == 4096
    assert gate.weight.std().item() == pytest.approx(0.005, rel=0.05)
    assert DenseAttentionGate(wide, std=0.02).weight.std().item() == pytest.approx(0.02, rel=0.05)
    g = gate(torch.ones(1, 50, 8, 64), normal(1, 50, 512, seed=7), torch.ones(1, 50, 4, 64))
    assert (g - 0.5).abs().max() < 0.15 and (g - 0.5).abs().max() > 0


@pytest.mark.parametrize(
    ("node", "outer", "inner"),
    [
        (part(DenseAttentionGate), 1.0, 1.0),
        (part(NarrowAttentionGate, width=5), 2.0, 1.0),
        (part(SparseAttentionGate, width=5, scale=0.3), 1.0, 0.3),
    ],
)
def test_gates_follow_their_formula(node: Spec[AttentionGate], outer: float, inner: float) -> None:
    gate = node(AT).double()
    gate.weight.data.copy_(normal(*gate.weight.shape, seed=3))
    x, y = normal(2, 5, 32, dtype=torch.float64), normal(2, 5, 4, 8, seed=1, dtype=torch.float64)
    out = gate(y, x, y[:, :, :2])
    for t in range(5):
        for h in range(4):
            z = inner * (gate.weight[h] * x[1, t, : gate.weight.shape[1]]).sum()
            assert torch.allclose(out[1, t, h], outer / (1 + torch.exp(-z)) * y[1, t, h], atol=1e-12)


@pytest.mark.parametrize("node", [part(DenseAttentionGate), part(NarrowAttentionGate), part(SparseAttentionGate)])
def test_a_gate_depends_on_its_own_position_only(node: Spec[AttentionGate]) -> None:
    gate = node(AT)
    gate.weight.data.copy_(normal(*gate.weight.shape, seed=3))
    x, y = normal(1, 6, 32), torch.ones(1, 6, 4, 8)
    other = x.clone()
    other[:, 3] += 1
    moved = (gate(y, other, y) - gate(y, x, y)).abs().amax((0, 2, 3))
    assert moved[3] > 1e-3 and moved[[0, 1, 2, 4, 5]].max() == 0
    blind = x.clone()
    blind[..., gate.weight.shape[1] :] += 1
    assert torch.equal(gate(y, blind, y), gate(y, x, y))


def test_a_dense_gate_with_a_bias_starts_open() -> None:
    """As in the scripts of #549 to #1512: W is 0 and b is 4."""
    gate = DenseAttentionGate(AT, std=0.0, bias=4.0)
    y, x = normal(2, 5, 4, 8), normal(2, 5, 32)
    assert torch.allclose(gate(y, x, y), torch.tensor(4.0).sigmoid() * y) and DenseAttentionGate(AT).bias is None
    assert gate.bias is not None and gate.bias.shape == (4,)
    gate.weight.data.copy_(normal(4, 32, seed=3))
    gate.bias.data.copy_(normal(4, seed=4))
    z = x @ gate.weight.T + gate.bias
    assert torch.allclose(gate(y, x, y), z.sigmoid()[..., None] * y, atol=1e-6)


def test_a_gate_reads_the_queries_before_norm_and_rope() -> None:
    """2 sigmoid(W q[:12]), q being x Wq^T of all heads (#1667 with GATE_ATTN_SRC=q)."""
    gated, plain = attention(post_attention=(part(QueryAttentionGate),)), attention()
    x, context = normal(1, 6, 32), context_of(1, 2, 3, 4, 5, 6)
    assert torch.equal(gated(x, context), plain(x, context)), "1 at the start"
    weight = gated.post_attention[0].weight.data.copy_(normal(4, 12, seed=3))  # type: ignore[union-attr,operator]
    gates = 2 * (plain.q(x)[..., :12] @ weight.T).sigmoid()
    expected = (plain(x, context).unflatten(-1, (4, 8)) * gates[..., None]).flatten(-2)
    assert torch.allclose(gated(x, context), expected, atol=1e-6)


def test_learned_gates_are_factors_of_heads_and_channels() -> None:
    y, x = normal(2, 5, 4, 8), normal(2, 5, 32)
    head, channel = LearnedHeadGate(AT), LearnedChannelGate(AT)
    assert torch.allclose(head(y, x, y), torch.tensor(3.0).sigmoid() * y) and torch.equal(channel(y, x, y), y)
    head.weight.data.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    channel.weight.data.copy_(normal(4, 8, seed=2))
    assert torch.allclose(head(y, x, y)[..., 1, :], 0.5 * y[..., 1, :])
    assert torch.allclose(head(y, x, y)[..., 3, :], torch.tensor(2.0).sigmoid() * y[..., 3, :])
    assert torch.allclose(channel(y, x, y), y + channel.weight * y, atol=1e-6)


def test_gates_have_a_role_of_their_own_and_a_width_that_fits() -> None:
    model = toy_model().edit(Attention, append(post_attention=part(SparseAttentionGate)))(BuildContext(vocab=VOCAB))
    assert parameter_roles(model)["blocks.1.mixer.post_attention.0.weight"] == "gate"
    assert NarrowAttentionGate(AT._replace(dim=512, heads=8)).weight.numel() == 96
    for width in (0, 33):
        with pytest.raises(RecipeError, match=r"width must be between 1 and \d+, got"):
            SparseAttentionGate(AT, width=width)


# ---- the key offset -------------------------------------------------------------------------------------------------


def test_the_key_offset_moves_what_rope_leaves_alone() -> None:
    offset = KeyOffset(AT, unshifted_dims=3)
    q, k = normal(2, 7, 4, 8), normal(2, 7, 2, 8, seed=1)
    before = k.clone()
    same, moved = offset(q, k, ForwardContext(torch.full((2, 7), 9)))
    assert same is q and torch.equal(k, before), "nothing is written in place"
    assert torch.equal(moved[..., :3], k[..., :3])
    assert torch.equal(moved[:, 1:, :, 3:], k[:, :-1, :, 3:])
    assert torch.equal(moved[:, 0], k[:, 0])


def test_the_key_offset_of_one_token_is_nothing() -> None:
    k = normal(2, 1, 2, 8)
    for mask in (True, False):
        _, moved = KeyOffset(AT, unshifted_dims=4, mask_starts=mask)(k, k, ForwardContext(torch.full((2, 1), 9)))
        assert torch.equal(moved, k)


def test_the_key_offset_stops_at_document_starts_unless_told_otherwise() -> None:
    k, context = normal(1, 6, 2, 8), context_of(1, 5, 6, 1, 7, 8)
    _, masked = KeyOffset(AT, unshifted_dims=4)(k, k, context)
    assert torch.equal(masked[:, [0, 3]], k[:, [0, 3]])
    assert torch.equal(masked[:, [1, 2, 4, 5], :, 4:], k[:, [0, 1, 3, 4], :, 4:])
    _, leaking = KeyOffset(AT, unshifted_dims=4, mask_starts=False)(k, k, context)
    assert torch.equal(leaking[:, 3, :, 4:], k[:, 2, :, 4:]) and torch.equal(leaking[:, 0], k[:, 0])


def test_gradients_pass_the_key_offset_once() -> None:
    """The shifted half of each key is used once, of the last key never, of the first also at its own position."""
    k = normal(1, 5, 2, 8).requires_grad_()
    KeyOffset(AT, unshifted_dims=4)(k, k, context_of(9, 9, 9, 9, 9))[1].sum().backward()
    assert k.grad is not None and (k.grad[..., :4] == 1).all()
    assert k.grad[0, :, 0, 4:].unique(dim=1).flatten().tolist() == [2, 1, 1, 1, 0]


@pytest.mark.parametrize("dims", [-1, 8, 16])
def test_a_key_offset_that_moves_nothing_is_an_error(dims: int) -> None:
    with pytest.raises(RecipeError, match=r"below the head width 8, got"):
        KeyOffset(AT, unshifted_dims=dims)


# ---- windows and documents ------------------------------------------------------------------------------------------


def test_a_window_is_blind_to_older_keys_exactly() -> None:
    core, context = SDPACore(AT, masks=(part(SlidingWindowMask, left=3),)), ForwardContext(torch.full((1, 10), 9))
    q, k, v = normal(1, 10, 4, 8), normal(1, 10, 2, 8, seed=1), normal(1, 10, 2, 8, seed=2)
    old = torch.arange(10) < 5
    other_k, other_v = k + old[None, :, None, None], v - 3.0 * old[None, :, None, None]
    before, after = core(q, k, v, context), core(q, other_k, other_v, context)
    assert torch.equal(before[:, 8:], after[:, 8:])
    assert (before[:, 7] - after[:, 7]).abs().max() > 1e-3


@pytest.mark.parametrize(("width", "same"), [(12, True), (11, True), (10, False)])
def test_a_window_of_the_whole_sequence_is_none(width: int, same: bool) -> None:
    core, full, context = (
        SDPACore(AT, masks=(part(SlidingWindowMask, left=width),)),
        SDPACore(AT),
        ForwardContext(torch.full((1, 12), 9)),
    )
    q, k, v = normal(1, 12, 4, 8), normal(1, 12, 2, 8, seed=1), normal(1, 12, 2, 8, seed=2)
    assert torch.allclose(core(q, k, v, context), full(q, k, v, context), atol=1e-6) is same


def test_stacked_windows_reach_as_far_as_their_sum() -> None:
    """With three layers of left=2, token t depends on token t-6 but on no earlier one."""
    model = built(toy_model().edit(SDPACore, append(masks=part(SlidingWindowMask, left=2))))
    ids = torch.randint(2, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    difference = (model(ids) - model(other_token(ids, 5))).abs().amax((0, 2))
    assert difference[12:].max() == 0 and difference[11] > 1e-6 and difference[:5].max() == 0


def test_packed_documents_read_as_they_do_alone() -> None:
    """All parts of attention together with a document mask; equal up to the rounding of the rotary angles."""
    qk = (part(QKNorm), part(RoPE, dims=4), part(KeyOffset, unshifted_dims=4), part(QGain, init=1.5))
    parts = replace(
        qk=qk, value=(part(ValueResidual),), post_attention=(part(SparseAttentionGate), part(ExclusiveSelfAttention))
    )
    model = built(toy_model().edit(Attention, parts).edit(SDPACore, append(masks=part(DocumentMask))))
    ids = torch.randint(2, VOCAB, (1, 24), generator=torch.Generator().manual_seed(0))
    ids[:, [0, 9, 17]] = 1
    packed = model(ids)
    for start, stop in ((0, 9), (9, 17), (17, 24)):
        assert (packed[:, start:stop] - model(ids[:, start:stop])).abs().max() < 1e-4
    assert (packed - model(other_token(ids, slice(1, 9))))[:, 9:].abs().max() == 0
