"""Gradient clipping by the global norm (Pascanu et al., arXiv 1211.5063)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.runtime.distributed import SINGLE_PROCESS, DistributedContext, all_reduce_sum


@torch.no_grad()
def clip_grad_norm_(
    grads: list[Tensor],
    max_norm: float,
    sharded_grads: list[Tensor] | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Tensor:
    """Scale all gradients in place so that their joint Euclidean norm is at most `max_norm`; the norm before, a scalar.

    `grads` are the same in every process, `sharded_grads` are what each has for itself of the rest; all are means over the
    batch of all processes, so the norm is that of one process with the whole batch. (The published scripts that reduce
    gradients by hand, #549 to #1855, clipped each process's own gradient before the mean, which is another thing.)
    The factor is a tensor, never read back: on a GPU nothing waits. A norm that is not finite makes the gradients so.
    """
    norms = [*torch._foreach_norm(grads)] if grads else []
    if sharded_grads:
        squares = torch.stack(torch._foreach_norm(sharded_grads)).square().sum()
        norms.append(all_reduce_sum(squares, distributed).sqrt())
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_([*grads, *(sharded_grads or [])], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
