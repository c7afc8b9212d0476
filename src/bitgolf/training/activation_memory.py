"""Forecast of the memory of activations, on fake tensors, and of the number of rows that fit the free memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from bitgolf.runtime.device import Device

MAX_PROBE_TOKENS = 1999
"""Longest row of a forecast, in tokens. Odd, unlike the widths of models, so that a (T, T) tensor must be a mask."""
MEMORY_FRACTION = 0.9
"""Share of the free memory that a forecast may fill. The rest allows for fragmentation and workspaces of kernels."""


def activation_bytes(build: Callable[[], nn.Module], device: Device, length: int) -> float:
    """Bytes per token that a forward pass saves for the backward pass, logits included, in rows of `length` tokens.

    build: makes the loss module. It runs on fake tensors, which have shapes but no memory, with slices of a row of two
    lengths; the difference excludes what does not grow with the slice (weights cast to the autocast type).
    Tensors of shape (T, T) do not count, as fused attention does not save them. Fused kernels and compiled graphs,
    which recompute cheap operations, save less: `pr1855` measured 50.7 GB in all, against 74 GB with reference modules.
    """
    long = (min(length, MAX_PROBE_TOKENS) - 1) // 2 * 2 + 1
    short = long // 4 * 2 + 1
    if short == long:  # rows of one or two tokens
        return _saved_tensor_bytes(build, device, length) / length
    return (_saved_tensor_bytes(build, device, long) - _saved_tensor_bytes(build, device, short)) / (long - short)


def _saved_tensor_bytes(build: Callable[[], nn.Module], device: Device, tokens: int) -> int:
    """Bytes that one forward pass on a row of `tokens` tokens saves for backward. Shared storage counts once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[-2:] != (tokens, tokens):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode(), torch.device(device.torch_device):
        module, ids = build(), torch.zeros((1, tokens), dtype=torch.int64)
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad(), device.autocast():
            module(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def max_micro_tokens(available: int, fixed_bytes: int, per_token: float) -> int:
    """Number of tokens of a micro-batch that fit `MEMORY_FRACTION` of the available memory.

    available, fixed_bytes: bytes; the latter are needed for any batch.  per_token: bytes per token.
    """
    return max(0, math.floor((MEMORY_FRACTION * available - fixed_bytes) / per_token))


def largest_micro_batch(share: int, length: int, tokens: float) -> int:
    """The largest divisor of `share` rows of `length` tokens that has at most `tokens` tokens; at least 1 row."""
    return max(rows for rows in range(1, share + 1) if share % rows == 0 and (rows == 1 or rows * length <= tokens))


def available_bytes(device: torch.device) -> int | None:
    """Bytes of device memory that are free or cached by PyTorch's allocator; None on a CPU, where the system pages."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
