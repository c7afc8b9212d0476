"""Fast twins of an objective, a branch and a pair of parts: they hold the plain one's own parts and parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.kernels.exclusive_attention_gate import exclusive_gate
from bitgolf.kernels.softcapped_cross_entropy import LARGEST_CAP, softcapped_cross_entropy
from bitgolf.kernels.squared_leaky_relu_mlp import leaky_mlp
from bitgolf.model.attention.cores.sdpa_backend import as_autocast
from bitgolf.model.attention.exclusive import ExclusiveSelf
from bitgolf.model.attention.gates import DenseGate, HeadGate, NarrowGate, SparseGate
from bitgolf.model.head import Logits
from bitgolf.model.interfaces import AfterPart, Feed, Objective
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP, LeakySquared


class FusedCrossEntropy(Objective):
    """`CrossEntropy` of a head whose only cap is a `Softcap`. Raises `Unsupported` for a cap beyond the kernel's range."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        if cap > LARGEST_CAP:
            raise Unsupported(f"a cap of {cap:g} is above {LARGEST_CAP:g}")
        self.cap = cap

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        assert isinstance(logits, Logits)
        return softcapped_cross_entropy(logits.raw(x).flatten(0, 1), targets.flatten(), self.cap).mean()


class FusedMLP(Feed):
    """`MLP` with `LeakySquared`; tma: by the kernel for Hopper.

    Raises `Unsupported` where one of its matrices is more than a matrix with views.
    """

    def __init__(self, plain: MLP, *, tma: bool = False) -> None:
        super().__init__()
        if any(type(m) is not Linear or len(m.add) for m in (plain.up, plain.down)):
            raise Unsupported("a matrix of it adds to its output")
        assert isinstance(plain.act, LeakySquared)
        self.up, self.act, self.down, self.tma = plain.up, plain.act, plain.down, tma

    def forward(self, x: Tensor) -> Tensor:
        return leaky_mlp(*as_autocast(x, self.up.viewed(), self.down.viewed()), self.act.slope, tma=self.tma)


class ExclusiveThenGate(AfterPart):
    """`ExclusiveSelf` and the gate that follows it, in turn: the plain twin of `FusedExclusiveGate`."""

    def __init__(self, exclusive: ExclusiveSelf, gate: HeadGate) -> None:
        super().__init__()
        self.exclusive, self.gate = exclusive, gate

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return self.gate(self.exclusive(y, x, v), x, v)


class FusedExclusiveGate(AfterPart):
    """Both in one kernel, for gates of the form gain sigmoid(scale z). Raises `Unsupported` for another gate."""

    def __init__(self, plain: ExclusiveThenGate) -> None:
        super().__init__()
        self.gate, self.eps = plain.gate, plain.exclusive.eps
        self.scale, self.gain = sigmoid_form(plain.gate)

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        weight = self.gate.weight
        z = F.linear(x[..., : weight.shape[1]], weight.to(x.dtype))
        return exclusive_gate(y, v, z, self.scale, self.gain, self.eps)


def sigmoid_form(gate: HeadGate) -> tuple[float, float]:
    """(scale, gain) of a gate that is gain sigmoid(scale z). Raises `Unsupported` for one that is not."""
    if type(gate) is SparseGate:
        return gate.scale, 1.0
    if type(gate) in (DenseGate, NarrowGate):
        return 1.0, 2.0 if type(gate) is NarrowGate else 1.0
    raise Unsupported(f"{type(gate).__name__} is not known to be a sigmoid")
