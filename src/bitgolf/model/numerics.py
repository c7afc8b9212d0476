"""Numerical functions that several parts use: RMS normalization, float32 accumulation, scalars as vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, without a gain, in x's type.

    eps is the machine epsilon of float32 (also for bfloat16, which is computed in float32), or of float64. Since torch 2.13
    autocast on CUDA has `rms_norm` return float32, hence the cast.
    """
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is float64 already: for sums that bfloat16 is too coarse for."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scalar_to_channels(scalar: Tensor, x: Tensor) -> Tensor:
    """A learned number, () or (1,), as a vector over the last axis of x, in x's type.

    Its gradient is then summed over positions channel by channel; that of a lone number a compiler sums over all
    positions and heads in one program.
    """
    return scalar.to(x.dtype).expand(x.shape[-1])
