"""Gradient clipping by the global norm (Pascanu et al., arXiv 1211.5063)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def clip_by_norm(grads: list[Tensor], limit: float) -> Tensor:
    """Scale all gradients in place so that their joint Euclidean norm is at most `limit`; the norm before, a scalar.

    The factor is a tensor, never read back: on a GPU nothing waits. A norm that is not finite makes the gradients so.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
