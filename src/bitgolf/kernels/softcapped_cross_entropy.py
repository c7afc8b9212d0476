"""Fused cross-entropy of softcapped logits (Parameter Golf #1787).

The cap c tanh(z/c) = 2c (sigma(2z/c) - 1/2) is computed in float32; neither capped logits nor probabilities are written
to memory. Capped logits lie within +-c, so the sum of their exponentials needs no running maximum.
Reference: `Softcap` followed by `CrossEntropy`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

COLUMNS_PER_BLOCK = 2048
"""Number of vocabulary columns that one program processes at a time."""
MAX_CAP = 64.0
"""Largest supported cap c: up to it, e^-c and a sum of 1e8 terms e^c are normal float32 numbers."""


def softcapped_cross_entropy(z: Tensor, targets: Tensor, cap: float) -> Tensor:
    """-log softmax(cap tanh(z / cap))[target] for each row, in nats.

    z: logits before the cap (N, V).  targets: token ids (N,).  cap: at most `MAX_CAP`. Returns (N,) in float32.
    """
    return _forward(z, targets, cap)[0]


def _options(z: Tensor, cap: float) -> dict[str, Any]:
    rate, bits = 2 * math.log2(math.e) / cap, 2 * cap * math.log2(math.e)
    columns = z.shape[1]
    return {
        "columns": columns,
        "stride": z.stride(0),
        "rate": rate,
        "bits": bits,
        "BLOCK": COLUMNS_PER_BLOCK,
        "EVEN": columns % COLUMNS_PER_BLOCK == 0,
    }


@torch.library.custom_op("bitgolf::softcapped_ce", mutates_args=())
def _forward(z: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Returns the loss of each row (N,) in nats and the log-sum-exp of its capped logits (N,) in bits."""
    from bitgolf.kernels.triton_kernels import softcapped_cross_entropy_forward

    loss = torch.empty(len(z), dtype=torch.float32, device=z.device)
    lse = torch.empty_like(loss)
    z = z.contiguous()
    kernel: Any = softcapped_cross_entropy_forward[(len(z),)]
    kernel(z, targets.contiguous(), loss, lse, **_options(z, cap))
    return loss, lse


@_forward.register_fake
def _(z: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    loss = torch.empty(len(z), dtype=torch.float32, device=z.device)
    return loss, torch.empty_like(loss)


@torch.library.custom_op("bitgolf::softcapped_ce_backward", mutates_args=())
def _backward(g: Tensor, z: Tensor, targets: Tensor, lse: Tensor, cap: float) -> Tensor:
    """Returns the gradient of z (N, V) in the dtype of z, given the gradient g (N,) of the losses."""
    from bitgolf.kernels.triton_kernels import softcapped_cross_entropy_backward

    z, dz = z.contiguous(), torch.empty(z.shape, dtype=z.dtype, device=z.device)
    kernel: Any = softcapped_cross_entropy_backward[(len(z),)]
    kernel(g.contiguous(), z, targets.contiguous(), lse, dz, **_options(z, cap))
    return dz


@_backward.register_fake
def _(g: Tensor, z: Tensor, targets: Tensor, lse: Tensor, cap: float) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    z, targets, ctx.cap = inputs
    ctx.save_for_backward(z, targets, output[1])


def _autograd_backward(ctx: Any, g: Tensor, g_lse: Tensor | None) -> tuple[Tensor, None, None]:
    z, targets, lse = ctx.saved_tensors
    return _backward(g, z, targets, lse, ctx.cap), None, None


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)
