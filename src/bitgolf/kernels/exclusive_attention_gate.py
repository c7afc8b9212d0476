"""Exclusive self-attention (arXiv 2603.09078) and a sigmoid gate per head, fused into one kernel.

Each program holds one value head of a token and all query heads that share it. The attention output y is therefore read
once and written once, instead of three times each. Computed in float32.
Reference: `ExclusiveSelfAttention` followed by an `AttentionGate`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOKENS_PER_PROGRAM = 32
"""Number of tokens that one program processes."""


def exclusive_attention_gate(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    """Remove the component of each head's output along the token's own value, then gate the head.

    Computes (y_h - (y_h . u) u) gain sigma(scale z_h) with u = v / max(|v|, eps). Query head h uses value head h // (H
    / G).
    y: attention output (..., H, d).  v: values (..., G, d).  z: gate logits (..., H).
    Returns (..., H, d) in the dtype of y.
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


def _with_contiguous_rows(v: Tensor) -> Tensor:
    """v (N, G, d), copied unless the G d numbers of each token are contiguous, as in a slice of a fused QKV product."""
    return v if v.stride(2) == 1 and v.stride(1) == v.shape[2] else v.contiguous()


@torch.library.custom_op("bitgolf::exclusive_gate", mutates_args=())
def _forward(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    """Forward pass: y (N, H, d), v (N, G, d), z (N, H) -> (N, H, d)."""
    from bitgolf.kernels.triton_kernels import exclusive_attention_gate_forward

    y, v, z, out = y.contiguous(), _with_contiguous_rows(v), z.contiguous(), y.new_empty(y.shape)
    _launch(exclusive_attention_gate_forward, (y, v, z, out), v, y.shape[1], scale, gain, eps)
    return out


@_forward.register_fake
def _(y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float) -> Tensor:
    return y.new_empty(y.shape)


@torch.library.custom_op("bitgolf::exclusive_gate_backward", mutates_args=())
def _backward(
    g: Tensor, y: Tensor, v: Tensor, z: Tensor, scale: float, gain: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward pass: the gradients of y, v and z from the gradient g (N, H, d) of the output."""
    from bitgolf.kernels.triton_kernels import exclusive_attention_gate_backward

    g, y, v, z = g.contiguous(), y.contiguous(), _with_contiguous_rows(v), z.contiguous()
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
