"""Initializers of matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitgolf.config.ranges import Count, Finite, NonNegative
from bitgolf.config.registry import register
from bitgolf.model.interfaces import Init


def initialize(weight: Tensor, init: Init) -> None:
    """Fill a matrix. On the meta device it has no values, and PyTorch would import its compiler to draw none."""
    if not weight.is_meta:
        with torch.no_grad():
            init.fill(weight)


@register
class UniformFanInInit(Init):
    """Uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in), PyTorch's default for linear layers."""

    def fill(self, weight: Tensor) -> None:
        nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


@register
class NormalInit(Init):
    """Normal with mean 0 and standard deviation `std`; 0 stands for 1/sqrt(fan_in)."""

    def __init__(self, *, std: NonNegative = 0.0) -> None:
        self.std = std

    def fill(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.std or weight.shape[1] ** -0.5)


@register
class ZeroInit(Init):
    """Zeros."""

    def fill(self, weight: Tensor) -> None:
        nn.init.zeros_(weight)


@register
class OrthogonalInit(Init):
    """Orthogonal: all singular values equal `gain` (Parameter Golf #162).

    Matrices with a side shorter than `min_side` get `UniformFanInInit` instead, as in the published scripts.
    """

    def __init__(self, *, gain: NonNegative = 1.0, min_side: Count = 64) -> None:
        self.gain, self.min_side = gain, min_side

    def fill(self, weight: Tensor) -> None:
        if min(weight.shape) < self.min_side:
            UniformFanInInit().fill(weight)
        else:
            nn.init.orthogonal_(weight, self.gain)


@register
class PowerLawSpectrumInit(Init):
    """Normal, with the k-th singular value replaced by the first one times k^-power, k = 1, 2, …

    Singular vectors are kept. For embeddings: Parameter Golf #60, where it is called overtone init.
    """

    def __init__(self, *, std: NonNegative = 0.005, power: Finite = 0.5) -> None:
        self.std, self.power = std, power

    def fill(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.std)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        order = torch.arange(1, len(values) + 1, device=weight.device, dtype=weight.dtype)
        weight.copy_((left * (values[0] * order**-self.power)) @ right)
