"""Differential attention against its formula in float64, computed for each attention map."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.spec import part
from bitgolf.errors import RecipeError
from bitgolf.model.attention.attention import QGain, QKNorm
from bitgolf.model.attention.cores.sdpa import SDPACore
from bitgolf.model.attention.differential import DifferentialAttention, SplitValueDifferentialAttention
from bitgolf.model.attention.gates import SparseAttentionGate
from bitgolf.model.attention.rope import RoPE
from bitgolf.model.forward_context import ForwardContext
from bitgolf.model.numerics import rms_norm
from helpers.toy import VOCAB

AT = BuildContext(vocab=VOCAB, dim=32, layers=6, layer=2)
BUS = ForwardContext(torch.full((2, 7), 9))


def mixer(context: BuildContext = AT, **change: Any) -> DifferentialAttention:
    """Differential attention with 4 heads of width 8 and random matrices, in float64."""
    torch.manual_seed(0)
    node = part(DifferentialAttention, **{"heads": 4, "kv_heads": 2, "core": part(SDPACore), **change})
    built = node(context).double()
    torch.nn.init.normal_(built.out.weight, std=0.3)
    return built


def x(seed: int = 0) -> Tensor:
    return torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(seed)).double()


def softmax_map(q: Tensor, k: Tensor) -> Tensor:
    """Causal softmax map of one head, (B, T, T)."""
    scores = (q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def test_the_formula_head_by_head() -> None:
    model, x0 = mixer(qk=(part(QKNorm),)), 0.8 - 0.6 * math.exp(-0.6)
    a1, b1, a2, b2 = model.lambda_vectors
    lam = torch.exp(a1 @ b1) - torch.exp(a2 @ b2) + x0
    heads = []
    for h in range(4):
        q = x() @ model.q.weight[8 * h : 8 * h + 8].T
        k = x() @ model.k.weight[8 * (h // 2) : 8 * (h // 2) + 8].T
        v = x() @ model.v.weight[8 * (h // 2) : 8 * (h // 2) + 8].T
        first, second = (softmax_map(rms_norm(q[..., s]), rms_norm(k[..., s])) for s in (slice(4), slice(4, 8)))
        heads.append((1 - x0) * rms_norm((first - lam * second) @ v))
    assert torch.allclose(model(x(), BUS), torch.cat(heads, -1) @ model.out.weight.T, atol=1e-5)


def set_lambda(model: DifferentialAttention, value: float) -> None:
    """Set the vectors such that lambda = exp(0) - exp(a2 . b2) + lambda_init equals `value`."""
    model.lambda_vectors.data.zero_()
    model.lambda_vectors.data[2:, 0] = torch.tensor([math.log(1 + model.lambda_init - value), 1.0])


def test_at_lambda_zero_it_is_attention_of_half_width() -> None:
    model = mixer()
    set_lambda(model, 0.0)
    q, k, v = (torch.randn(2, 7, n, d).double() for n, d in ((8, 4), (4, 4), (2, 8)))
    plain = SDPACore(AT._replace(heads=4, kv_heads=2))(q[:, :, :4], k[:, :, :2], v, BUS)
    assert torch.allclose(model.difference(q, k, v, BUS), plain, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.7])
def test_rows_of_the_difference_sum_to_one_less_lambda(lam: float) -> None:
    model = mixer()
    set_lambda(model, lam)
    assert model.lambda_().item() == pytest.approx(lam, abs=1e-6)
    q, k = torch.randn(2, 7, 8, 4).double(), torch.randn(2, 7, 4, 4).double()
    sums = model.difference(q, k, torch.ones(2, 7, 2, 8).double(), BUS)
    assert torch.allclose(sums, torch.full_like(sums, 1 - lam), atol=1e-6)


@pytest.mark.parametrize(("layer", "start"), [(0, 0.2), (1, 0.35551), (10, 0.77013)])
def test_lambda_starts_larger_in_deeper_layers(layer: int, start: float) -> None:
    assert mixer(AT._replace(layer=layer)).lambda_init == pytest.approx(start, abs=1e-5)


def test_size_and_first_values_of_the_vectors() -> None:
    torch.manual_seed(0)
    node = part(DifferentialAttention, heads=8, kv_heads=4, core=part(SDPACore))
    model = node(BuildContext(vocab=VOCAB, dim=512, layers=9, layer=0))
    assert model.lambda_vectors.numel() == 128 and model.lambda_vectors.std().item() == pytest.approx(0.1, rel=0.2)
    assert sum(p.numel() for p in model.parameters()) == 512 * 512 * 2 + 512 * 256 * 2 + 128


def test_the_chain_on_queries_sees_twice_as_many_heads_of_half_the_width() -> None:
    model = mixer(qk=(part(QKNorm), part(RoPE), part(QGain, init=2.0)))
    assert model.qk[2].weight.shape == (8,)
    before = model(x(), BUS)
    with torch.no_grad():
        model.qk[2].weight[4] = 0.5  # type: ignore[index]
    moved = (model(x(), BUS) - before) @ torch.linalg.inv(model.out.weight).T
    assert moved[..., :8].abs().max() > 1e-3, "the second half of head 0"
    assert moved[..., 8:].abs().max() < 1e-6


def test_causal() -> None:
    model, other = mixer(qk=(part(QKNorm), part(RoPE))), x()
    other[:, 4:] += 1.0
    difference = (model(x(), BUS) - model(other, BUS)).abs().amax((0, 2))
    assert difference[:4].max() == 0 and difference[4:].min() > 1e-3


def test_parts_on_the_output_stand_behind_the_norm() -> None:
    gated = mixer(post_attention=(part(SparseAttentionGate),))
    assert torch.allclose(gated(x(), BUS), 0.5 * mixer()(x(), BUS), atol=1e-12)


def test_heads_need_halves() -> None:
    with pytest.raises(RecipeError, match=r"head width must be even, got"):
        mixer(AT._replace(dim=12))


def split_mixer(**change: Any) -> SplitValueDifferentialAttention:
    """Attention of #640 with 4 heads of width 8, random matrices and weights of the second map, in float64."""
    torch.manual_seed(0)
    node = part(SplitValueDifferentialAttention, **{"heads": 4, "kv_heads": 2, "core": part(SDPACore), **change})
    built = node(AT).double()
    torch.nn.init.normal_(built.out.weight, std=0.3)
    torch.nn.init.normal_(built.weight)
    return built


def test_split_values_by_formula_head_by_head() -> None:
    """Norm and gain act on whole heads, then each softmax map reads its half of the values."""
    model = split_mixer(qk=(part(QKNorm), part(QGain, init=2.25)))
    heads = []
    for h in range(4):
        q = 2.25 * rms_norm(x() @ model.q.weight[8 * h : 8 * h + 8].T)
        k = rms_norm(x() @ model.k.weight[8 * (h // 2) : 8 * (h // 2) + 8].T)
        v = x() @ model.v.weight[8 * (h // 2) : 8 * (h // 2) + 8].T
        first, second = (softmax_map(q[..., s], k[..., s]) @ v[..., s] for s in (slice(4), slice(4, 8)))
        heads += [first - model.weight[h] * second, first + model.weight[h] * second]
    assert torch.allclose(model(x(), BUS), torch.cat(heads, -1) @ model.out.weight.T, atol=1e-6)


def test_split_values_sizes_and_first_values() -> None:
    node = part(SplitValueDifferentialAttention, heads=8, kv_heads=4, core=part(SDPACore))
    model = node(BuildContext(vocab=VOCAB, dim=768, layers=12, layer=0))
    assert torch.equal(model.weight, torch.full((8,), 0.5)) and not model.out.weight.any()
    assert sum(p.numel() for p in model.parameters()) == 768 * 768 * 2 + 768 * 384 * 2 + 8


def test_split_values_are_another_operator_than_differential_attention() -> None:
    """Both halves of the output read both halves of the values; with a weight of 0 they are equal."""
    model = split_mixer(qk=(part(QKNorm), part(RoPE)))
    with torch.no_grad():
        model.weight.zero_()
    y = (model(x(), BUS) @ torch.linalg.inv(model.out.weight).T).unflatten(-1, (4, 2, 4))
    assert torch.allclose(y[..., 0, :], y[..., 1, :], atol=1e-6) and y.abs().max() > 0.1
    with pytest.raises(RecipeError, match=r"head width must be even, got"):
        part(SplitValueDifferentialAttention, heads=4, kv_heads=2, core=part(SDPACore))(AT._replace(dim=12))
