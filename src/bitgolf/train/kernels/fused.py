"""Fast twins of an objective, a branch and a pair of parts: they hold the plain one's own parts and parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from bitgolf.errors import Unsupported
from bitgolf.kernels.exclusive_attention_gate import exclusive_attention_gate
from bitgolf.kernels.softcapped_cross_entropy import MAX_CAP, softcapped_cross_entropy
from bitgolf.kernels.squared_leaky_relu_mlp import squared_leaky_relu_mlp
from bitgolf.model.attention.cores.sdpa_backend import to_autocast_dtype
from bitgolf.model.attention.exclusive import ExclusiveSelfAttention
from bitgolf.model.attention.gates import AttentionGate, DenseAttentionGate, NarrowAttentionGate, SparseAttentionGate
from bitgolf.model.head import LogitsFunction
from bitgolf.model.interfaces import AttentionOutputPart, FeedForward, Objective
from bitgolf.model.linear import Linear
from bitgolf.model.mlp import MLP, SquaredLeakyReLU


class FusedSoftcappedCrossEntropy(Objective):
    """`CrossEntropy` of a head whose only cap is a `Softcap`. Raises `Unsupported` for a cap beyond the kernel's range."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        if cap > MAX_CAP:
            raise Unsupported(f"a cap of {cap:g} is above {MAX_CAP:g}")
        self.cap = cap

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        assert isinstance(logits, LogitsFunction)
        return softcapped_cross_entropy(logits.untransformed(x).flatten(0, 1), targets.flatten(), self.cap).mean()


class FusedMLP(FeedForward):
    """`MLP` with `SquaredLeakyReLU`; tma: by the kernel for Hopper.

    Raises `Unsupported` where one of its matrices is more than a matrix with views.
    """

    def __init__(self, plain: MLP, *, tma: bool = False) -> None:
        super().__init__()
        if any(type(m) is not Linear or len(m.adapters) for m in (plain.up, plain.down)):
            raise Unsupported("a matrix of it adds to its output")
        assert isinstance(plain.act, SquaredLeakyReLU)
        self.up, self.act, self.down, self.tma = plain.up, plain.act, plain.down, tma

    def forward(self, x: Tensor) -> Tensor:
        return squared_leaky_relu_mlp(
            *to_autocast_dtype(x, self.up.effective_weight(), self.down.effective_weight()),
            self.act.slope,
            tma=self.tma,
        )


class ReferenceExclusiveGate(AttentionOutputPart):
    """`ExclusiveSelfAttention` and the gate that follows it, in turn: the plain twin of `FusedExclusiveGate`."""

    def __init__(self, exclusive: ExclusiveSelfAttention, gate: AttentionGate) -> None:
        super().__init__()
        self.exclusive, self.gate = exclusive, gate

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return self.gate(self.exclusive(y, x, v), x, v)


class FusedExclusiveGate(AttentionOutputPart):
    """Both in one kernel, for gates of the form gain sigmoid(scale z). Raises `Unsupported` for another gate."""

    def __init__(self, plain: ReferenceExclusiveGate) -> None:
        super().__init__()
        self.gate, self.eps = plain.gate, plain.exclusive.eps
        self.scale, self.gain = sigmoid_scale_and_gain(plain.gate)

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        weight = self.gate.weight
        z = F.linear(x[..., : weight.shape[1]], weight.to(x.dtype))
        return exclusive_attention_gate(y, v, z, self.scale, self.gain, self.eps)


def sigmoid_scale_and_gain(gate: AttentionGate) -> tuple[float, float]:
    """(scale, gain) of a gate that is gain sigmoid(scale z). Raises `Unsupported` for one that is not."""
    if type(gate) is SparseAttentionGate:
        return gate.scale, 1.0
    if type(gate) in (DenseAttentionGate, NarrowAttentionGate):
        return 1.0, 2.0 if type(gate) is NarrowAttentionGate else 1.0
    raise Unsupported(f"{type(gate).__name__} is not known to be a sigmoid")
