"""Fast twins of an objective and of a branch, for training only: they hold the plain one's own parts and parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bitgolf.kernels.leaky_mlp import leaky_mlp
from bitgolf.kernels.softcapped_ce import softcapped_cross_entropy
from bitgolf.model.cores.fused import as_autocast
from bitgolf.model.head import Logits
from bitgolf.model.mlp import MLP, LeakySquared
from bitgolf.model.sockets import Feed, Objective
from bitgolf.model.weight import Linear


class FusedCrossEntropy(Objective):
    """`CrossEntropy` of a head whose only cap is a `Softcap`."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        assert isinstance(logits, Logits)
        return softcapped_cross_entropy(logits.raw(x).flatten(0, 1), targets.flatten(), self.cap).mean()


class FusedMLP(Feed):
    """`MLP` with `LeakySquared`. Raises `ValueError` where one of its matrices is more than a matrix with views."""

    def __init__(self, plain: MLP) -> None:
        super().__init__()
        if any(type(m) is not Linear or len(m.add) for m in (plain.up, plain.down)):
            raise ValueError("a matrix of it adds to its output")
        assert isinstance(plain.act, LeakySquared)
        self.up, self.act, self.down = plain.up, plain.act, plain.down

    def forward(self, x: Tensor) -> Tensor:
        return leaky_mlp(*as_autocast(x, self.up.viewed(), self.down.viewed()), self.act.slope)
