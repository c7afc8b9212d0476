"""Training objectives."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from bitgolf.model.sockets import Objective
from bitgolf.spec import Place, register


@register
class CrossEntropy(Objective):
    """Mean negative log-likelihood of the next token, in nats per token, over float32 logits."""

    def __init__(self, at: Place, /) -> None:
        super().__init__()

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(logits(x).float().flatten(0, 1), targets.flatten())
