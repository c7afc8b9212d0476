"""Ternary, binary and 8-bit fake quantization against float64 references from the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import Spec, part
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import WeightTransform
from bitgolf.model.mlp import SquaredReLU
from bitgolf.model.qat_lowbit import (
    AttentionOutputNorm,
    FakeBinary,
    FakeFloat8,
    FakeInt4,
    FakeTernary,
    NormedActivation,
)
from bitgolf.quantize.codecs.lowbit import PackedInt4
from helpers.toy import built, toy_model

AT = BuildContext(vocab=64)
KINDS: list[Spec[WeightTransform]] = [
    part(FakeTernary, group_size=20),
    part(FakeBinary, group_size=20),
    part(FakeFloat8),
    part(FakeInt4),
]


def weight(rows: int = 6, columns: int = 15, *, scale: float = 0.3, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def grouped(w: Tensor, group: int) -> list[np.ndarray]:
    flat = w.detach().double().numpy().reshape(-1)
    return [flat[i : i + group] for i in range(0, len(flat), group)]


@pytest.mark.parametrize("group", [1, 15, 20, 64, 128])
def test_ternary_and_binary_weights_are_the_published_ones(group: int) -> None:
    """Includes groups that extend over the ends of rows, and a shorter last group."""
    w = weight()
    scales = [np.abs(g).mean() for g in grouped(w, group)]
    ternary = [s * np.clip(np.round(g / s), -1, 1) for g, s in zip(grouped(w, group), scales, strict=True)]
    binary = [s * np.where(g >= 0, 1, -1) for g, s in zip(grouped(w, group), scales, strict=True)]
    for cls, expected in ((FakeTernary, ternary), (FakeBinary, binary)):
        seen = part(cls, group_size=group)(AT)(w).double().numpy().reshape(-1)
        assert np.abs(seen - np.concatenate(expected)).max() < 1e-7


def test_each_group_has_few_values() -> None:
    w = weight(40, 64)
    for cls, most in ((FakeTernary, 3), (FakeBinary, 2)):
        counts = [len(np.unique(g)) for g in grouped(part(cls)(AT)(w), 128)]
        assert len(counts) == 20 and set(counts) == {most}


def test_zero_counts_as_positive_and_nothing_divides_by_zero() -> None:
    w = torch.tensor([[0.0, -0.0, -1.0, 3.0]])
    assert torch.equal(part(FakeBinary)(AT)(w), torch.tensor([[1.0, 1.0, -1.0, 1.0]]))
    zero = torch.zeros(3, 4)
    assert torch.equal(part(FakeTernary)(AT)(zero), zero) and torch.equal(part(FakeBinary)(AT)(zero), zero + 1e-8)


def test_eight_bit_floats_have_three_bits_of_mantissa_and_an_end() -> None:
    w = weight(50, 50)
    seen = part(FakeFloat8)(AT)(w)
    normal = w.abs() >= 2.0**-6
    assert ((seen - w).abs() <= w.abs() / 16)[normal].all() and ((seen - w).abs() <= 2.0**-10)[~normal].all()
    mantissas, _ = np.frexp(seen[normal].numpy())
    assert np.array_equal(mantissas * 16, np.round(mantissas * 16)) and len(np.unique(np.abs(mantissas))) == 8
    ends = torch.tensor([[448.0, 500.0, -1e6, 2.0**-10, 2.0**-9]])
    assert torch.equal(part(FakeFloat8)(AT)(ends), torch.tensor([[448.0, 448.0, -448.0, 0.0, 2.0**-9]]))


def test_four_bit_rows_are_the_published_ones_and_those_of_the_codec() -> None:
    """The view of decoded weights is the decoded weights, so that a model scores as it was stored."""
    w = torch.cat([weight(), torch.zeros(1, 15), 100 * weight(1, seed=2)])
    seen, rows = part(FakeInt4)(AT)(w), w.double().numpy()
    steps = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-8) / 7
    assert np.abs(seen.double().numpy() - steps * np.clip(np.round(rows / steps), -7, 7)).max() < 1e-5
    codec = PackedInt4()
    decoded = codec.decode(codec.encode(w), tuple(w.shape))
    assert torch.allclose(decoded, seen, rtol=1e-3) and torch.allclose(part(FakeInt4)(AT)(decoded), decoded, rtol=1e-6)


@pytest.mark.parametrize("node", KINDS, ids=repr)
def test_the_gradient_is_that_of_a_dense_matrix_at_the_rounded_weight(node: Spec[WeightTransform]) -> None:
    view, w, x = node(AT), weight().requires_grad_(), weight(5, 15, seed=1)
    torch.tanh(x @ view(w).T).square().sum().backward()
    rounded = view(w).detach().requires_grad_()
    assert not torch.equal(rounded, w)
    torch.tanh(x @ rounded.T).square().sum().backward()
    assert w.grad is not None and rounded.grad is not None and torch.equal(w.grad, rounded.grad)


@pytest.mark.parametrize("node", KINDS, ids=repr)
def test_rounded_weights_are_trained_and_scored_alike(node: Spec[WeightTransform]) -> None:
    model = built(toy_model().edit("block.mlp.linear", append(weight_transforms=node)))
    ids = torch.randint(2, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    scored = model(ids)
    assert torch.equal(scored, model.train()(ids))
    plain = built(toy_model())
    plain.load_state_dict(model.state_dict())
    assert (scored - plain(ids)).abs().max() > 1e-4


def test_a_group_without_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"group_size: must be from 1 to 65,536, got 0"):
        part(FakeTernary, group_size=0)(AT)


def test_normed_inputs_of_output_projections() -> None:
    """The root mean square is taken over all heads together, and over the hidden dimension."""
    y, u = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0)), weight(3, 40, scale=2.0)
    normed = part(AttentionOutputNorm)(AT)(y, y, y)
    flat = y.double().flatten(-2)
    expected = flat / flat.square().mean(-1, keepdim=True).sqrt()
    assert (normed.double() - expected.view(y.shape)).abs().max() < 1e-5
    assert ((normed.square().mean(-1) - 1).abs() > 0.1).any(), "single heads are not normalised"
    act = part(NormedActivation, act=part(SquaredReLU))(AT)(u)
    squares = u.double().clamp_min(0).square()
    assert (act.double() - squares / squares.square().mean(-1, keepdim=True).sqrt()).abs().max() < 1e-5
