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
    """Scale all gradients in place so that their global Euclidean norm is at most `max_norm`.

    grads: gradients that are equal on all ranks.  sharded_grads: this rank's shards of the others. All are means over
    the global batch, so the norm is the same as with one process. (The scripts of Parameter Golf #549 to #1855 clipped
    each rank's own gradient before the mean, which gives a different result.)
    Returns the norm before clipping, a scalar tensor. No value is read back, so the host does not wait for the GPU.
    A NaN or infinite gradient entry leaves NaN in the result.
    """
    norms = [*torch._foreach_norm(grads)] if grads else []
    if sharded_grads:
        squares = torch.stack(torch._foreach_norm(sharded_grads)).square().sum()
        norms.append(all_reduce_sum(squares, distributed).sqrt())
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_([*grads, *(sharded_grads or [])], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
