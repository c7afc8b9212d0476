"""Caps on logits."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.model.sockets import Cap
from bitgolf.spec import Place, register


@register
class Softcap(Cap):
    """c tanh(z / c): |logit| < c (Gemma 2, arXiv 2408.00118)."""

    def __init__(self, at: Place, /, *, cap: float = 30.0) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, z: Tensor) -> Tensor:
        return self.cap * torch.tanh(z / self.cap)
