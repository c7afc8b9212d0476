"""Exclusive self-attention (arXiv 2603.09078) and a sigmoid gate of each head, in one kernel.

Both read attention's output y once and write it once, instead of three times each: the kernel holds a token's value head
and the query heads that read it. Computed in float32. Plain twin: `ExclusiveSelfAttention`, then a `AttentionGate`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOKENS_PER_PROGRAM = 32
"""Tokens that a program holds."""


def exclusive_attention_gate(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    """(y_h - (y_h . u) u) gain sigma(scale z_h) with u = v / max(|v|, eps): y (..., H, d), v (..., G, d), z (..., H).

    Query head h reads value head h // (H / G). Returns (..., H, d) in y's type.
    """
    leading = y.shape[:-2]
    folded = (x.reshape(-1, *x.shape[len(leading) :]) for x in (y, v, z))
    return _forward(*folded, scale, gain, eps).unflatten(0, leading)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], v: Tensor, heads: int, scale: float, gain: float, eps: float
) -> None:
    tokens, groups, width = v.shape
    kernel[(-(-tokens // TOKENS_PER_PROGRAM), groups)](
        *tensors, tokens, v.stride(0), scale, gain, eps,
        G=groups, R=heads // groups, D=width, WIDE=1 << (width - 1).bit_length(), B=TOKENS_PER_PROGRAM, num_warps=8,
    )  # fmt: skip


def _rows(v: Tensor) -> Tensor:
    """v (N, G, d) whose rows are whole: those of a product of q, k and v stay where they are."""
    return v if v.stride(2) == 1 and v.stride(1) == v.shape[2] else v.contiguous()


@torch.library.custom_op("bitgolf::exclusive_gate", mutates_args=())
def _forward(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    """y (N, H, d), v (N, G, d), z (N, H) -> (N, H, d)."""
    from bitgolf.kernels.triton_kernels import exclusive_attention_gate_forward

    y, v, z, out = y.contiguous(), _rows(v), z.contiguous(), y.new_empty(y.shape)
    _launch(exclusive_attention_gate_forward, (y, v, z, out), v, y.shape[1], scale, gain, eps)
    return out


@_forward.register_fake
def _(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    return y.new_empty(y.shape)


@torch.library.custom_op("bitgolf::exclusive_gate_backward", mutates_args=())
def _backward(
    g: Tensor, y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, v and z from that of the output."""
    from bitgolf.kernels.triton_kernels import exclusive_attention_gate_backward

    g, y, v, z = g.contiguous(), y.contiguous(), _rows(v), z.contiguous()
    gradients = (y.new_empty(y.shape), v.new_empty(v.shape), z.new_empty(z.shape))
    _launch(exclusive_attention_gate_backward, (g, y, v, z, *gradients), v, y.shape[1], scale, gain, eps)
    return gradients


@_backward.register_fake
def _(
    g: Tensor, y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), v.new_empty(v.shape), z.new_empty(z.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, v, z, *ctx.constants = inputs
    ctx.save_for_backward(y, v, z)


def _autograd_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(g, *ctx.saved_tensors, *ctx.constants), None, None, None


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)
