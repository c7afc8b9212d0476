"""How many tokens are read at once: a fixed number on the CPU, on CUDA as many as free memory holds."""

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
MAX_TOKENS = 65_536  # larger batches make no GPU of today faster
MEMORY_FRACTION = 0.6  # of free memory: the estimates count neither workspaces nor fragments nor adapters


class BatchSize(NamedTuple):
    """Tokens that are read at once, and why so many."""

    tokens: int
    reason: str

    def halved(self, window: int, distributed: DistributedContext) -> BatchSize:
        """What to try after memory has run out. Raises `BitgolfError` where there is nothing smaller, or where other
        processes have a plan by this number.
        """
        rows = max(1, self.tokens // window)
        if rows == 1 or distributed.world_size > 1:
            hint = "fewer rows or a shorter window" if rows == 1 else f"--batch {rows // 2 * window}"
            raise BitgolfError(f"out of memory with {self.tokens:,} tokens at once", where="score", hint=hint)
        return BatchSize(rows // 2 * window, f"halved: out of memory with {self.tokens:,}")


def choose_batch_size(
    model: LM, method: ScoringMethod, device: Device, distributed: DistributedContext, tokens: int | None = None
) -> BatchSize:
    """So many tokens as asked for, or for None as the device suggests; on every process as many as on the first.

    On CUDA a power of two of rows, such that `inference_bytes_per_token` of all of them is at most a `MEMORY_FRACTION` of the free memory.
    """
    if tokens is not None:
        return BatchSize(tokens, "as asked for")
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
    """Rows of a window, a power of two of them, for so many bytes of free memory."""
    rows = int(min(max_tokens, MEMORY_FRACTION * free / per_token)) // window
    tokens = window << max(0, rows.bit_length() - 1)
    return BatchSize(tokens, f"{per_token * tokens / 1e9:.2f} GB of {free / 1e9:.1f} GB free")


def free_bytes(device: torch.device) -> int:
    """What the driver has free, and what PyTorch's allocator holds and does not use."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def inference_bytes_per_token(model: LM) -> int:
    """Estimate for a forward without gradients in which every token asks for its next one.

    Logits twice, in the products' type (2 bytes) and in float32; of one block the stream in up to 16 forms and the
    widest matrix's output and its activation, and half as many streams as there are layers, kept for skips; float32.
    """
    vocab, dim = model.embed.weight.shape
    widest = max((len(m.weight) for m in model.blocks.modules() if isinstance(m, Linear)), default=dim)
    return vocab * (2 + 4) + 4 * (16 * dim + 2 * widest + dim * len(model.blocks) // 2)


@torch.no_grad()
def training_bytes_per_token(model: LM) -> int:
    """Estimate for a forward whose graph is kept, with frozen weights, as adapters need it.

    Of each visit of a block ten streams in float32. Measured for `pr1855`, compiled, in autocast to bfloat16: 310 kB a
    token, where this says 348 kB; eagerly 600 kB.
    """
    weight = model.embed.weight
    context = model.forward_context(torch.full((1, 1), model.bos, device=weight.device))
    model.hidden(context)
    return 4 * 10 * weight.shape[1] * context.visit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a lack of memory was the cause, also where a compiler has wrapped it."""
    return any(isinstance(cause, torch.OutOfMemoryError) for cause in exception_chain(error))


def free_memory() -> None:
    """Give back what a failed attempt still held. To be called when its exception is gone: that holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
