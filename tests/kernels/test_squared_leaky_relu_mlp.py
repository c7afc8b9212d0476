"""The fused MLP equals `Linear`, `SquaredLeakyReLU` and `Linear` in sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.kernels.squared_leaky_relu_mlp import squared_leaky_relu_mlp


def plain(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    return F.linear(F.leaky_relu(F.linear(x, up), slope).square(), down)


def example(device: torch.device, rows: int, width: int, hidden: int, out: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, up, down = torch.randn(rows, width), torch.randn(hidden, width) / width**0.5, torch.randn(out, hidden)
    return x.to(device).requires_grad_(), up.to(device).requires_grad_(), down.to(device).requires_grad_()


def error(value: Tensor, reference: Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.fixture(params=[False, True], ids=["tiles", "TMA"])
def tma(request: pytest.FixtureRequest, triton_device: torch.device) -> bool:
    if request.param and triton_device.type == "cuda" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("needs Hopper's tensor memory accelerator")
    return request.param


@pytest.fixture
def exact_tma(tma: bool, triton_device: torch.device) -> bool:
    """As `tma`, for float32 tests. Skipped on GPUs, where float32 tiles of the TMA kernel exceed shared memory."""
    if tma and triton_device.type == "cuda":
        pytest.skip("tiles of float32 exceed shared memory; half precision is tested on the device")
    return tma


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [(5, 24, 40, 24), (130, 72, 152, 36), (512, 128, 256, 128)],
    ids=["one tile", "ragged tiles", "even tiles"],
)
def test_output_and_gradients_are_those_of_the_twin(
    slope: float, sizes: tuple[int, int, int, int], exact_tma: bool, triton_device: torch.device
) -> None:
    leaves = example(triton_device, *sizes)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, reference = squared_leaky_relu_mlp(*leaves, slope, tma=exact_tma), plain(exact[0], exact[1], exact[2], slope)
    assert error(y, reference) < 1e-5
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, g)
    wanted = torch.autograd.grad(reference, exact, g.double())
    assert all(error(a, b) < 1e-5 for a, b in zip(got, wanted, strict=True))


def test_sizes_of_any_kind_by_tiles(triton_device: torch.device) -> None:
    """The portable kernel supports rows of odd length. The TMA kernel rejects them with an error."""
    x, up, down = example(triton_device, 131, 71, 151, 33)
    assert error(squared_leaky_relu_mlp(x, up, down, 0.5), plain(x.double(), up.double(), down.double(), 0.5)) < 1e-5
    with pytest.raises(AssertionError, match="16-byte aligned"):
        squared_leaky_relu_mlp(x, up, down, 0.5, tma=True)


@pytest.mark.parametrize("sizes", [(20, 64, 80, 32), (300, 72, 152, 40), (512, 128, 256, 128)])
def test_half_precision_is_within_a_hundredth(
    sizes: tuple[int, int, int, int], tma: bool, triton_device: torch.device
) -> None:
    """bfloat16 on a GPU, float16 on the CPU, where Triton's interpreter treats bfloat16 as integers in `dot`."""
    low = torch.float16 if triton_device.type == "cpu" else torch.bfloat16
    x, up, down = (t.detach().to(low).requires_grad_() for t in example(triton_device, *sizes))
    leaves, exact = (x, up, down), [t.detach().double().requires_grad_() for t in (x, up, down)]
    y, reference = squared_leaky_relu_mlp(x, up, down, 0.5, tma=tma), plain(exact[0], exact[1], exact[2], 0.5)
    got = torch.autograd.grad(y, leaves, torch.ones_like(y))
    wanted = torch.autograd.grad(reference, exact, torch.ones_like(reference))
    pairs = zip((y, *got), (reference, *wanted), strict=True)
    assert all(error(a, b) < 1e-2 for a, b in pairs)


def test_nothing_beyond_a_matrix_is_read(exact_tma: bool, triton_device: torch.device) -> None:
    """The matrices are slices of tensors that are NaN elsewhere."""
    leaves = [t.detach() for t in example(triton_device, 5, 24, 40, 24)]
    framed = [F.pad(t, (8, 8, 8, 8), value=float("nan"))[8:-8, 8:-8].requires_grad_() for t in leaves]
    y = squared_leaky_relu_mlp(framed[0], framed[1], framed[2], 0.5, tma=exact_tma)
    assert torch.equal(y, squared_leaky_relu_mlp(leaves[0], leaves[1], leaves[2], 0.5, tma=exact_tma))
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), framed))


def test_leading_axes_pass_through(triton_device: torch.device) -> None:
    x, up, down = example(triton_device, 6, 8, 12, 8)
    folded = squared_leaky_relu_mlp(x.view(2, 3, 8), up, down, 0.5)
    assert folded.shape == (2, 3, 8)
    assert torch.equal(folded.flatten(0, 1), squared_leaky_relu_mlp(x, up, down, 0.5))


def test_the_operator_keeps_the_rules_of_torch(exact_tma: bool, triton_device: torch.device) -> None:
    leaves = example(triton_device, 5, 8, 12, 8)
    torch.library.opcheck(torch.ops.bitgolf.leaky_mlp.default, (*leaves, 0.5, exact_tma))

    def step(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return squared_leaky_relu_mlp(x, up, down, 0.5, tma=exact_tma).square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, got = torch.autograd.grad(step(*leaves), leaves), torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, got, strict=True))
