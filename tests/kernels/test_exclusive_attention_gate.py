"""The fused kernel of exclusive self-attention and gate equals the two parts applied one after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.kernels.exclusive_attention_gate import exclusive_attention_gate


def plain(leaves: list[Tensor], scale: float, gain: float, eps: float) -> Tensor:
    y, v, z = leaves
    unit = F.normalize(v, dim=-1, eps=eps)[..., None, :]
    grouped = y.unflatten(-2, (v.shape[-2], -1))
    own = (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).flatten(-3, -2)
    return own * (gain * torch.sigmoid(scale * z))[..., None]


def fused(leaves: list[Tensor], scale: float, gain: float, eps: float) -> Tensor:
    y, v, z = leaves
    return exclusive_attention_gate(y, v, z, scale, gain, eps)


def example(device: torch.device, tokens: int, groups: int, queries: int, width: int) -> list[Tensor]:
    torch.manual_seed(0)
    heads = groups * queries
    shapes = [(tokens, heads, width), (tokens, groups, width), (tokens, heads)]
    return [torch.randn(s).to(device).requires_grad_() for s in shapes]


def gap(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    "sizes",
    [(37, 4, 2, 64), (32, 1, 1, 32), (5, 2, 3, 24)],
    ids=["#1855's heads", "one head", "a width of no power of 2"],
)
@pytest.mark.parametrize(("scale", "gain"), [(0.5, 1.0), (1.0, 2.0)], ids=["sparse", "narrow"])
def test_output_and_gradients_are_those_of_the_twin(
    sizes: tuple[int, int, int, int], scale: float, gain: float, triton_device: torch.device
) -> None:
    leaves = example(triton_device, *sizes)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, reference = fused(leaves, scale, gain, 1e-12), plain(exact, scale, gain, 1e-12)
    g = torch.randn_like(y)
    got, wanted = torch.autograd.grad(y, leaves, g), torch.autograd.grad(reference, exact, g.double())
    assert all(gap(a, b) < 1e-5 for a, b in zip((y, *got), (reference, *wanted), strict=True))


def test_a_value_shorter_than_eps_is_divided_by_eps(triton_device: torch.device) -> None:
    """In this case the value is not normalised, and the gradient keeps its component along v."""
    leaves = example(triton_device, 6, 2, 2, 16)
    with torch.no_grad():
        leaves[1][:3] *= 1e-3
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, reference = fused(leaves, 1.0, 1.0, 0.1), plain(exact, 1.0, 1.0, 0.1)
    got, wanted = torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(reference.sum(), exact)
    assert all(gap(a[:3], b[:3]) < 1e-5 for a, b in zip((y, *got), (reference, *wanted), strict=True))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_low_precision_comes_back_in_its_own_type_computed_in_float32(
    kind: torch.dtype, triton_device: torch.device
) -> None:
    leaves = [t.detach().to(kind).requires_grad_() for t in example(triton_device, 40, 2, 2, 64)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, reference = fused(leaves, 0.5, 1.0, 1e-12), plain(exact, 0.5, 1.0, 1e-12)
    got, wanted = torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(reference.sum(), exact)
    assert all(a.dtype is kind and gap(a, b) < 8e-3 for a, b in zip((y, *got), (reference, *wanted), strict=True))


def test_values_that_are_a_slice_of_a_wider_product_are_read_where_they_lie(triton_device: torch.device) -> None:
    y, v, z = (t.detach() for t in example(triton_device, 12, 2, 2, 16))
    wide = torch.full((2, 6, 5, 16), float("nan"), device=triton_device)
    wide[:, :, 2:4] = v.view(2, 6, 2, 16)
    sliced, whole = wide[:, :, 2:4].requires_grad_(), v.view(2, 6, 2, 16).requires_grad_()
    rest = (y.view(2, 6, 4, 16), z.view(2, 6, 4))
    a, b = (exclusive_attention_gate(rest[0], x, rest[1], 1.0, 1.0, 1e-12) for x in (sliced, whole))
    assert a.shape == (2, 6, 4, 16)
    assert torch.equal(a, b)
    assert torch.equal(torch.autograd.grad(a.sum(), sliced)[0], torch.autograd.grad(b.sum(), whole)[0])


def test_the_operator_keeps_the_rules_of_torch(triton_device: torch.device) -> None:
    leaves = example(triton_device, 5, 2, 2, 16)
    torch.library.opcheck(torch.ops.bitgolf.exclusive_gate.default, (*leaves, 0.5, 1.0, 1e-12))

    def step(y: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return exclusive_attention_gate(y, v, z, 0.5, 1.0, 1e-12).square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, got = torch.autograd.grad(step(*leaves), leaves), torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(expected, got, strict=True))
