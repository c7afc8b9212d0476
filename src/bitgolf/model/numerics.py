"""Numerical functions that several parts use: RMS normalization, casts to float32, expansion of scalars to vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, without a gain, in the dtype of x.

    eps is the machine epsilon of float32, or of float64 for float64 inputs. bfloat16 inputs are computed in float32.
    Since torch 2.13, `rms_norm` returns float32 under autocast on CUDA; the cast restores the dtype.
    """
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast x to float32; float64 is kept. For sums that need more precision than bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scalar_to_channels(scalar: Tensor, x: Tensor) -> Tensor:
    """Expand a learned scalar, () or (1,), to a vector over the last axis of x, in the dtype of x.

    The compiler then sums the gradient over positions separately for each channel. The gradient of a scalar factor
    would be summed over all positions and heads in a single program.
    """
    return scalar.to(x.dtype).expand(x.shape[-1])
