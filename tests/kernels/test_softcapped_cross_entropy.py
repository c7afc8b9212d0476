"""The fused softcapped cross-entropy equals `Softcap` followed by `CrossEntropy`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitgolf.kernels.softcapped_cross_entropy import softcapped_cross_entropy

CAP = 30.0


def plain(z: Tensor, targets: Tensor, cap: float) -> Tensor:
    return F.cross_entropy(cap * torch.tanh(z / cap), targets, reduction="none")


def example(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Logits large enough to be capped, targets (the first and last column among them), and a gradient of the losses."""
    torch.manual_seed(0)
    z, g = 25 * torch.randn(rows, columns), torch.randn(rows)
    targets = torch.randint(columns, (rows,))
    targets[0], targets[1] = 0, columns - 1
    return z.to(device), targets.to(device), g.to(device)


@pytest.mark.parametrize("columns", [5, 1500, 2048, 2049])
def test_loss_and_gradient_are_those_of_the_twin_in_float64(columns: int, triton_device: torch.device) -> None:
    z, targets, g = example(4, columns, triton_device)
    z.requires_grad_()
    exact = z.detach().double().requires_grad_()
    loss, reference = softcapped_cross_entropy(z, targets, CAP), plain(exact, targets, CAP)
    loss.backward(g)
    reference.backward(g.double())
    assert z.grad is not None
    assert exact.grad is not None
    assert (loss - reference).abs().max() < 1e-5 * reference.abs().max()
    assert (z.grad - exact.grad).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_low_precision_logits_get_a_float32_loss_and_a_gradient_of_their_own_type(
    kind: torch.dtype, triton_device: torch.device
) -> None:
    z, targets, g = example(3, 1100, triton_device)
    z = z.to(kind).requires_grad_()
    loss = softcapped_cross_entropy(z, targets, CAP)
    loss.backward(g)
    assert loss.dtype is torch.float32
    assert (loss - plain(z.detach().double(), targets, CAP)).abs().max() < 1e-4
    assert z.grad is not None
    assert z.grad.dtype is kind


def test_shift_identity() -> None:
    """2c sigma(2z/c) = c tanh(z/c) + c; the constant changes neither the cross-entropy nor its gradient."""
    z, targets, _ = example(8, 50, torch.device("cpu"))
    z = z.double().requires_grad_()
    y = 2 * CAP * torch.sigmoid(2 * z / CAP)
    assert (y - (CAP * torch.tanh(z / CAP) + CAP)).abs().max() < 1e-12
    shifted = F.cross_entropy(y, targets)
    unshifted = plain(z, targets, CAP).mean()
    assert (shifted - unshifted).abs() < 1e-12
    a, b = torch.autograd.grad(shifted, z)[0], torch.autograd.grad(unshifted, z)[0]
    assert (a - b).abs().max() < 1e-13


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # gives infinity, whose inverse is 0
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [10.0, CAP, 64.0])
def test_very_large_logits_stay_finite(cap: float, kind: torch.dtype, triton_device: torch.device) -> None:
    """Includes rows whose logits are all at the same end of the largest cap, i.e. sums of e^-c only or of e^c only."""
    rows = [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, 1e4]]
    z = torch.tensor(rows, device=triton_device, dtype=kind, requires_grad=True)
    targets = torch.tensor([1, 2, 0, 2], device=triton_device)
    loss = softcapped_cross_entropy(z, targets, cap)
    loss.sum().backward()
    assert (loss - plain(z.detach().double(), targets, cap)).abs().max() < 1e-4
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_the_operator_keeps_the_rules_of_torch(triton_device: torch.device) -> None:
    """torch checks schema, fake tensors, autograd registration and tracing; compilation gives one full graph."""
    z, targets, _ = example(3, 40, triton_device)
    torch.library.opcheck(torch.ops.bitgolf.softcapped_ce.default, (z.requires_grad_(), targets, CAP))

    low, lse = z.detach().half(), torch.zeros(3, device=z.device)
    torch.library.opcheck(torch.ops.bitgolf.softcapped_ce_backward.default, (lse, low, targets, lse, CAP))

    def step(z: Tensor) -> Tensor:
        return softcapped_cross_entropy(z, targets, CAP).mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, got = torch.autograd.grad(step(z), z)[0], torch.autograd.grad(compiled(z), z)[0]
    assert torch.equal(expected, got)
