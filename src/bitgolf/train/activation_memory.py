"""How much memory activations take, forecast on fake tensors, and how many rows of a batch fit what is free."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from bitgolf.runtime.device import Device

MAX_PROBE_TOKENS = 1999
"""Most tokens that a forecast runs. Odd, as the widths of models are not, so that (T, T) is a mask and nothing else."""
MEMORY_FRACTION = 0.9
"""Of what is free, how much a forecast may fill: memory is fragmented, and kernels need room of their own."""


def activation_bytes(build: Callable[[], nn.Module], device: Device, length: int) -> float:
    """Bytes per token that a forward pass keeps for the backward pass, logits included, at rows of `length` tokens.

    The task is built and run on fake tensors, which have shapes and no memory, on two slices of a row; what does not
    grow with the slice (weights in the type of the products) is no part of the difference. Left out is what is (T, T),
    as no fused attention keeps it. Fused kernels and compiled graphs, which recompute what is cheap, keep less than
    this: `pr1855` measured 50.7 GB in all where its plain parts keep 74.
    """
    long = (min(length, MAX_PROBE_TOKENS) - 1) // 2 * 2 + 1
    short = long // 4 * 2 + 1
    if short == long:  # rows of one or two tokens
        return _saved_tensor_bytes(build, device, length) / length
    return (_saved_tensor_bytes(build, device, long) - _saved_tensor_bytes(build, device, short)) / (long - short)


def _saved_tensor_bytes(build: Callable[[], nn.Module], device: Device, tokens: int) -> int:
    """Bytes of all tensors that one forward pass on a row of so many tokens saves, each memory counted once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[-2:] != (tokens, tokens):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode(), torch.device(device.torch_device):
        task, ids = build(), torch.zeros((1, tokens), dtype=torch.int64)
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad(), device.autocast():
            task(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def max_micro_tokens(available: int, fixed_bytes: int, per_token: float) -> int:
    """How many tokens fit 90 % of the free memory, beside what is needed whatever the batch; all in bytes."""
    return max(0, math.floor((MEMORY_FRACTION * available - fixed_bytes) / per_token))


def largest_micro_batch(share: int, length: int, tokens: float) -> int:
    """The largest divisor of `share` rows that has at most so many tokens, `length` to a row; at least 1."""
    return max(rows for rows in range(1, share + 1) if share % rows == 0 and (rows == 1 or rows * length <= tokens))


def available_bytes(device: torch.device) -> int | None:
    """Memory that training may still take; None where there is no limit to keep to (on a CPU the system pages)."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
