"""Gradient clipping by the global norm (Pascanu et al., arXiv 1211.5063)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.runtime.distributed import ALONE, World, total


@torch.no_grad()
def clip_by_norm(grads: list[Tensor], limit: float, shares: list[Tensor] | None = None, world: World = ALONE) -> Tensor:
    """Scale all gradients in place so that their joint Euclidean norm is at most `limit`; the norm before, a scalar.

    `grads` are the same in every process, `shares` are what each has for itself of the rest; all are means over the
    batch of all processes, so the norm is that of one process with the whole batch. (The published scripts that reduce
    gradients by hand, #549 to #1855, clipped each process's own gradient before the mean, which is another thing.)
    The factor is a tensor, never read back: on a GPU nothing waits. A norm that is not finite makes the gradients so.
    """
    norms = [*torch._foreach_norm(grads)] if grads else []
    if shares:
        squares = torch.stack(torch._foreach_norm(shares)).square().sum()
        norms.append(total(squares, world).sqrt())
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_([*grads, *(shares or [])], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
