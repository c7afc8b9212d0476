"""Magnitude pruning: which weights are kept before the others are rounded to zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def magnitude_mask(w: Tensor, prune: float) -> Tensor:
    """bool, shaped as `w`: all but the share `prune` of smallest magnitudes, rounded up to whole weights.

    Source: openai/parameter-golf, pull requests 503 and 1001: 2 to 5 %. More does much harm (spec, 3.2).
    """
    kept = torch.ones_like(w, dtype=torch.bool)
    if prune:
        smallest = w.abs().flatten().argsort(stable=True)[: math.ceil(prune * w.numel())]
        kept.view(-1)[smallest] = False
    return kept
