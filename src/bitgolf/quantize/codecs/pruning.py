"""Magnitude pruning: the mask of weights that are not set to zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def magnitude_mask(w: Tensor, prune: float) -> Tensor:
    """bool in the shape of `w`: False for the share `prune` of smallest magnitudes, rounded up to whole weights.

    Source: openai/parameter-golf, pull requests 503 and 1001, which prune 2 to 5 %. Larger shares cost much quality.
    """
    kept = torch.ones_like(w, dtype=torch.bool)
    if prune:
        smallest = w.abs().flatten().argsort(stable=True)[: math.ceil(prune * w.numel())]
        kept.view(-1)[smallest] = False
    return kept
