"""FlashAttention 3 and 4 through their own packages (Dao-AILab/flash-attention, `hopper` and `flash_attn/cute`).

PyTorch can also dispatch its attention to these packages. But the backward of PyTorch 2.11 for FlashAttention 4 rejects
every call with a window argument, and `varlen_attn` always passes one. This module therefore calls the packages'
forward and backward functions directly, wrapped as one custom operator so that compiled graphs can contain it. Releases
differ in their signatures, so arguments are passed by name. Reference: `SDPACore`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bitgolf.runtime.compat import supported_kwargs

MODULES = {3: "flash_attn_interface", 4: "flash_attn.cute.interface"}
"""FlashAttention version -> name of the module with its functions."""


def import_flash_attention(version: int) -> ModuleType:
    """Import the module of FlashAttention 3 or 4. Raises `ImportError` if it is not installed."""
    return importlib.import_module(MODULES[version])


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor | None, longest: int, window_left: int, version: int
) -> Tensor:
    """Causal attention within segments: q (N, H, d), k and v (N, G, d) -> (N, H, d).

    ends: int32 (S + 1,), the cumulative lengths of the S segments. None: the tensors have a batch axis before N, and
    each row is one segment.  longest: number of tokens in the longest segment.
    window_left: number of keys before its own that a query attends to; -1 for all.  version: 3 or 4.
    """
    return _forward(q, k, v, ends, longest, window_left, version)[0]


def _options(q: Tensor, ends: Tensor | None, longest: int, width: int, version: int) -> dict[str, Any]:
    """Arguments shared by forward and backward of both versions, under every name that some release uses for them."""
    left = None if version == 4 and width < 0 else width
    varlen = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": longest, "max_seqlen_k": longest}
    window = {"window_size": (left, 0), "window_size_left": left, "window_size_right": 0}
    return {"softmax_scale": q.shape[-1] ** -0.5, "causal": True, "is_causal": True, **varlen, **window}


def _required_arguments(ends: Tensor | None, width: int) -> list[tuple[str, ...]]:
    """Groups of alternative names. A function that accepts no name of a group would compute another result."""
    window = [("window_size", "window_size_left")] if width >= 0 else []
    return window + ([("cu_seqlens_q",)] if ends is not None else [])


@torch.library.custom_op("bitgolf::flash", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor | None, longest: int, width: int, version: int
) -> tuple[Tensor, Tensor]:
    """Returns the output and the log-sum-exp of each query's scores, (H, N) or (B, H, N)."""
    module = import_flash_attention(version)
    function = module._flash_attn_fwd if version == 4 else module._flash_attn_forward
    options = _options(q, ends, longest, width, version) | {"q": q, "k": k, "v": v, "return_lse": True}
    out, lse, *_ = function(**supported_kwargs(function, options, _required_arguments(ends, width)))
    return out.contiguous(), lse.contiguous()  # contiguous like the fake tensors below; the real kernels need no copy


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor | None, longest: int, width: int, version: int
) -> tuple[Tensor, Tensor]:
    *batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty([*batch, heads, tokens], dtype=torch.float32)


@torch.library.custom_op("bitgolf::flash_backward", mutates_args=())
def _backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ends: Tensor | None,
    longest: int, width: int, version: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of q, k and v, given the gradient g of the output."""
    module, options = import_flash_attention(version), _options(q, ends, longest, width, version)
    options |= {"dout": g.contiguous(), "q": q, "k": k, "v": v, "out": out, "lse": lse, "softmax_lse": lse}
    function = module._flash_attn_bwd if version == 4 else module._flash_attn_backward
    gradients = tuple(x.new_empty(x.shape) for x in (q, k, v))
    options |= dict(zip(("dq", "dk", "dv"), gradients, strict=True))  # FlashAttention 3 writes into them
    result = function(**supported_kwargs(function, options, _required_arguments(ends, width)))
    dq, dk, dv = result[:3] if version == 4 else gradients
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@_backward.register_fake
def _(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ends: Tensor | None,
    longest: int, width: int, version: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ends, *ctx.other_args = inputs
    ctx.save_for_backward(q, k, v, *output, ends)


def _autograd_backward(ctx: Any, g: Tensor, g_lse: Any) -> tuple[Tensor | None, ...]:
    return *_backward(g, *ctx.saved_tensors, *ctx.other_args), None, None, None, None


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)
