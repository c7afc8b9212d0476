"""MLP with a squared leaky ReLU, the activation fused into the matrix products (Parameter Golf #1530).

Computes leaky(x W_up^T)^2 W_down^T for any slope. The forward kernel stores the pre-activation u and leaky(u)^2 in one
pass. The backward pass runs the same kernel on dY W_down and multiplies by the derivative at u, which is 2u above zero
and 2 slope^2 u below. There are two kernels: a portable one, and one that uses Hopper's tensor memory accelerator
(TMA).
Reference: `MLP` with `SquaredLeakyReLU`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = {"M": 128, "N": 128, "K": 64}
TMA_TILE = {"M": 256, "N": 128, "K": 64}
LAUNCH_OPTIONS = {"num_warps": 8, "num_stages": 3}


def squared_leaky_relu_mlp(x: Tensor, up: Tensor, down: Tensor, slope: float, *, tma: bool = False) -> Tensor:
    """leaky(x up^T)^2 down^T: x (..., D), up (F, D), down (D', F) -> (..., D'). All tensors have the same dtype.

    tma: use the Hopper kernel, which requires rows whose size is a multiple of 16 bytes.
    """
    return _forward(x.flatten(0, -2), up, down, slope, tma)[0].unflatten(0, x.shape[:-1])


def _launch(a: Tensor, b: Tensor, u: Tensor, slope: float, *, backward: bool) -> Tensor:
    """Run the portable kernel on a (m, k) and b (k, n); see `matmul_squared_leaky_relu`.

    u (m, n) is written in the forward pass and read in the backward pass. Returns the other result (m, n).
    """
    from bitgolf.kernels.triton_kernels import matmul_squared_leaky_relu

    (m, k), n = a.shape, b.shape[1]
    out = torch.empty_like(u)
    tiles = -(-m // TILE["M"]) * -(-n // TILE["N"])
    sizes = (m, n, k, *a.stride(), *b.stride())
    even = all(size % TILE[axis] == 0 for size, axis in zip((m, n, k), "MNK", strict=True))
    kernel: Any = matmul_squared_leaky_relu[(tiles,)]
    kernel(a, b, u, out, *sizes, slope, BACKWARD=backward, EVEN=even, **TILE, **LAUNCH_OPTIONS)
    return out


def _launch_tma(a: Tensor, b: Tensor, u: Tensor, slope: float, *, backward: bool) -> Tensor:
    """The same as `_launch` with the TMA kernel: contiguous matrices by descriptors, at most one program per SM."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from bitgolf.kernels.triton_kernels import matmul_squared_leaky_relu_tma

    (m, k), n = a.shape, b.shape[1]
    rows, columns, inner = TMA_TILE.values()
    a, out = a.contiguous(), torch.empty_like(u)
    stored = (b.contiguous(), [inner, columns]) if backward else (b.T.contiguous(), [columns, inner])
    blocks = [(a, [rows, inner]), stored, (u, [rows, columns // 2]), (out, [rows, columns // 2])]
    tiles = -(-m // rows) * -(-n // columns)
    programs = min(tiles, _multiprocessors(a.device))
    kernel: Any = matmul_squared_leaky_relu_tma[(programs,)]
    described = [TensorDescriptor.from_tensor(x, block) for x, block in blocks]
    kernel(*described, m, n, k, slope, BACKWARD=backward, **TMA_TILE, PROGRAMS=programs, **LAUNCH_OPTIONS)
    return out


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@torch.library.custom_op("bitgolf::leaky_mlp", mutates_args=())
def _forward(x: Tensor, up: Tensor, down: Tensor, slope: float, tma: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the output (N, D'), the pre-activation u (N, F) and the activation h (N, F)."""
    u = torch.empty(len(x), len(up), dtype=x.dtype, device=x.device)
    h = (_launch_tma if tma else _launch)(x, up.T, u, slope, backward=False)
    return h @ down.T, u, h


@_forward.register_fake
def _(x: Tensor, up: Tensor, down: Tensor, slope: float, tma: bool) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.empty(x.shape[0], up.shape[0], dtype=x.dtype, device=x.device)
    return torch.empty(x.shape[0], down.shape[0], dtype=x.dtype, device=x.device), u, torch.empty_like(u)


@torch.library.custom_op("bitgolf::leaky_mlp_backward", mutates_args=())
def _backward(g: Tensor, down: Tensor, u: Tensor, slope: float, tma: bool) -> Tensor:
    """Returns the gradient of u (N, F), given the gradient g (N, D') of the output."""
    return (_launch_tma if tma else _launch)(g, down, u, slope, backward=True)


@_backward.register_fake
def _(g: Tensor, down: Tensor, u: Tensor, slope: float, tma: bool) -> Tensor:
    return torch.empty_like(u)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, up, down, ctx.slope, ctx.tma = inputs
    ctx.save_for_backward(x, up, down, *output[1:])


def _autograd_backward(ctx: Any, g: Tensor, g_u: Any, g_h: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
    x, up, down, u, h = ctx.saved_tensors
    du = _backward(g, down, u, ctx.slope, ctx.tma)
    return du @ up, du.T @ x, g.T @ h, None, None


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)
