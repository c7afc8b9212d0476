"""The number of tokens per batch: fixed on the CPU, chosen by free memory on CUDA."""

from __future__ import annotations

import gc
from typing import NamedTuple

import torch

from bitgolf.errors import BitgolfError, exception_chain
from bitgolf.model.linear import Linear
from bitgolf.model.lm import LM
from bitgolf.runtime.device import Device
from bitgolf.runtime.distributed import DistributedContext, broadcast_scalar
from bitgolf.score.methods import ScoringMethod

CPU_TOKENS = 4096
MAX_TOKENS = 65_536  # larger batches are not faster on current GPUs
MEMORY_FRACTION = 0.6  # of free memory; the estimates leave out workspaces, fragmentation and adapters


class BatchSize(NamedTuple):
    """Tokens per batch, and the reason for the number."""

    tokens: int
    reason: str

    def halved(self, window: int, distributed: DistributedContext) -> BatchSize:
        """Half as many rows, for a retry after memory ran out.

        Raises `BitgolfError` if there is only one row, or if there are other processes: they all use this batch size.
        """
        rows = max(1, self.tokens // window)
        if rows == 1 or distributed.world_size > 1:
            hint = "set fewer rows or a shorter window" if rows == 1 else f"--batch {rows // 2 * window}"
            raise BitgolfError(f"out of memory with batches of {self.tokens:,} tokens", where="score", hint=hint)
        return BatchSize(rows // 2 * window, f"halved: out of memory with {self.tokens:,} tokens")


def choose_batch_size(
    model: LM, method: ScoringMethod, device: Device, distributed: DistributedContext, tokens: int | None = None
) -> BatchSize:
    """The batch size for a method: `tokens` if given, otherwise chosen for the device. The same on every process.

    On CUDA it is a power-of-two number of rows whose estimated memory is at most `MEMORY_FRACTION` of the free memory
    of the first process.
    """
    if tokens is not None:
        return BatchSize(tokens, "as specified")
    if device.torch_device.type != "cuda":
        return BatchSize(CPU_TOKENS, "no CUDA device")
    each = training_bytes_per_token(model) if method.adapts else inference_bytes_per_token(model)
    return batch_size_for_memory(
        each,
        method.window,
        broadcast_scalar(free_bytes(device.torch_device), distributed),
        max_tokens=MAX_TOKENS << method.adapts,
    )


def batch_size_for_memory(per_token: int, window: int, free: int, *, max_tokens: int = MAX_TOKENS) -> BatchSize:
    """The largest power-of-two number of rows, each a window, that fits `free` bytes; at least one row."""
    rows = int(min(max_tokens, MEMORY_FRACTION * free / per_token)) // window
    tokens = window << max(0, rows.bit_length() - 1)
    return BatchSize(tokens, f"{per_token * tokens / 1e9:.2f} GB of {free / 1e9:.1f} GB free")


def free_bytes(device: torch.device) -> int:
    """Free bytes of the device, including those that PyTorch's allocator has reserved and does not use."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def inference_bytes_per_token(model: LM) -> int:
    """Estimated bytes per token of a forward without gradients, with logits at every position.

    Counted are the logits twice, in 2 bytes and in float32, and in float32: 16 residual streams and twice the output of
    the widest matrix for one block, and one residual stream per two layers, kept for skip connections.
    """
    vocab, dim = model.embed.weight.shape
    widest = max((len(m.weight) for m in model.blocks.modules() if isinstance(m, Linear)), default=dim)
    return vocab * (2 + 4) + 4 * (16 * dim + 2 * widest + dim * len(model.blocks) // 2)


@torch.no_grad()
def training_bytes_per_token(model: LM) -> int:
    """Estimated bytes per token of a forward whose graph is kept, with frozen weights, as for training adapters.

    Counted are ten residual streams in float32 per application of a block. Measured for `pr1855` in autocast to
    bfloat16: 310 kB per token compiled (this estimate: 348 kB), 600 kB eager.
    """
    weight = model.embed.weight
    context = model.forward_context(torch.full((1, 1), model.bos, device=weight.device))
    model.hidden(context)
    return 4 * 10 * weight.shape[1] * context.visit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `torch.OutOfMemoryError` is the error or among its causes: the compiler wraps it in its own errors."""
    return any(isinstance(cause, torch.OutOfMemoryError) for cause in exception_chain(error))


def free_memory() -> None:
    """Free the memory of a failed attempt. Call this after its exception is gone, since the traceback keeps tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
