"""Cross-entropy over softcapped logits, fused (Parameter Golf #1787).

c tanh(z/c) + c = 2c sigma(2z/c), and a constant added to all logits changes no cross-entropy: so the kernel works on
2c sigma(2z/c), in float32, without ever writing capped logits or probabilities. Plain twin: `Softcap` and `CrossEntropy`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 1024
"""Columns that a program holds at a time."""


def softcapped_cross_entropy(z: Tensor, targets: Tensor, cap: float) -> Tensor:
    """-log softmax(cap tanh(z / cap))[target] of each row: z (N, V) before the cap, targets (N) -> (N) in float32."""
    return _forward(z, targets, cap)[0]


@torch.library.custom_op("bitgolf::softcapped_ce", mutates_args=())
def _forward(z: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of each row."""
    from bitgolf.kernels.in_triton import softcapped_ce_forward

    loss = torch.empty(len(z), dtype=torch.float32, device=z.device)
    lse = torch.empty_like(loss)
    z = z.contiguous()
    kernel: Any = softcapped_ce_forward[(len(z),)]
    kernel(z, targets.contiguous(), loss, lse, z.shape[1], z.stride(0), cap, BLOCK=BLOCK)
    return loss, lse


@_forward.register_fake
def _(z: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    loss = torch.empty(len(z), dtype=torch.float32, device=z.device)
    return loss, torch.empty_like(loss)


@torch.library.custom_op("bitgolf::softcapped_ce_backward", mutates_args=())
def _backward(g: Tensor, z: Tensor, targets: Tensor, lse: Tensor, cap: float) -> Tensor:
    """The gradient of z (N, V), in its type, from that of the losses (N)."""
    from bitgolf.kernels.in_triton import softcapped_ce_backward

    z, dz = z.contiguous(), torch.empty(z.shape, dtype=z.dtype, device=z.device)
    kernel: Any = softcapped_ce_backward[(len(z),)]
    kernel(g.contiguous(), z, targets.contiguous(), lse, dz, z.shape[1], z.stride(0), cap, BLOCK=BLOCK)
    return dz


@_backward.register_fake
def _(g: Tensor, z: Tensor, targets: Tensor, lse: Tensor, cap: float) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    z, targets, ctx.cap = inputs
    ctx.save_for_backward(z, targets, output[1])


def _differentiate(ctx: Any, g: Tensor, g_lse: Tensor | None) -> tuple[Tensor, None, None]:
    z, targets, lse = ctx.saved_tensors
    return _backward(g, z, targets, lse, ctx.cap), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
