"""Modules with fused kernels that replace reference modules and share their submodules and parameters."""

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
    """`CrossEntropy` fused with the `Softcap` of a head that has no other logits transform.

    Raises `Unsupported` if `cap` exceeds `MAX_CAP`, the limit of the kernel.
    """

    def __init__(self, cap: float) -> None:
        super().__init__()
        if cap > MAX_CAP:
            raise Unsupported(f"a softcap of {cap:g} is above {MAX_CAP:g}")
        self.cap = cap

    def forward(self, x: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        assert isinstance(logits, LogitsFunction)
        return softcapped_cross_entropy(logits.untransformed(x).flatten(0, 1), targets.flatten(), self.cap).mean()


class FusedMLP(FeedForward):
    """`MLP` with `SquaredLeakyReLU` as one fused operation. tma: use the kernel for Hopper (tensor memory accelerator).

    Raises `Unsupported` if one of the two matrices is not a plain `Linear`, or has output adapters.
    """

    def __init__(self, plain: MLP, *, tma: bool = False) -> None:
        super().__init__()
        if any(type(m) is not Linear or len(m.adapters) for m in (plain.up, plain.down)):
            raise Unsupported("a matrix of the MLP is not a plain Linear without output adapters")
        assert isinstance(plain.act, SquaredLeakyReLU)
        self.up, self.act, self.down, self.tma = plain.up, plain.act, plain.down, tma

    def forward(self, x: Tensor) -> Tensor:
        return squared_leaky_relu_mlp(
            *to_autocast_dtype(x, self.up.effective_weight(), self.down.effective_weight()),
            self.act.slope,
            tma=self.tma,
        )


class ReferenceExclusiveGate(AttentionOutputPart):
    """`ExclusiveSelfAttention` followed by its gate: the reference for `FusedExclusiveGate`."""

    def __init__(self, exclusive: ExclusiveSelfAttention, gate: AttentionGate) -> None:
        super().__init__()
        self.exclusive, self.gate = exclusive, gate

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return self.gate(self.exclusive(y, x, v), x, v)


class FusedExclusiveGate(AttentionOutputPart):
    """`ExclusiveSelfAttention` and its gate in one kernel.

    Raises `Unsupported` unless the gate has the form gain sigmoid(scale z).
    """

    def __init__(self, plain: ReferenceExclusiveGate) -> None:
        super().__init__()
        self.gate, self.eps = plain.gate, plain.exclusive.eps
        self.scale, self.gain = sigmoid_scale_and_gain(plain.gate)

    def forward(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        weight = self.gate.weight
        z = F.linear(x[..., : weight.shape[1]], weight.to(x.dtype))
        return exclusive_attention_gate(y, v, z, self.scale, self.gain, self.eps)


def sigmoid_scale_and_gain(gate: AttentionGate) -> tuple[float, float]:
    """(scale, gain) of a gate of the form gain sigmoid(scale z). Raises `Unsupported` for other gates."""
    if type(gate) is SparseAttentionGate:
        return gate.scale, 1.0
    if isinstance(gate, DenseAttentionGate) and gate.bias is not None:
        raise Unsupported("the gate has a bias")
    if type(gate) in (DenseAttentionGate, NarrowAttentionGate):
        return 1.0, 2.0 if type(gate) is NarrowAttentionGate else 1.0
    raise Unsupported(f"{type(gate).__name__} is not of the form gain sigmoid(scale z)")
