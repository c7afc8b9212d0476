"""The cost of a target: -log2 of its probability under a softmax over the whole vocabulary, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from bitgolf.score.execution.compiled_function import CompiledFunction

EAGER_CHUNK = 1 << 10  # targets of one eager call: float64 copies of their logits are all the memory it needs
COMPILED_CHUNK = 1 << 13  # targets of one call of the compiled graph, which makes no copies

BitsFunction = Callable[[Tensor, Tensor], Tensor]


def token_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """-log2 p of each target (n,) under softmax(logits), logits (n, V); float64, on the logits' device.

    On CUDA one compiled kernel reads the logits in their own type and computes in float64 in registers. At 2 million
    targets a second and V = 8,192, eager float64 operators would move about 850 GB a second, a quarter of an H100's
    bandwidth; the kernel moves 66 to 131 GB and evaluates 16.4 billion exponentials, about 3 % of its float64 rate.

    Error: every term of the sum is exact to 2 units of float64, and V positive terms in any order sum to within
    V 2^-53 of their value. So a target's bits are within (V + 4) 2^-53 / ln 2 of the exact ones, 1.4e-12 for V = 8,192,
    in either form. (Float32 exponentials cannot promise 1e-9: each is off by up to 1.2e-7, all perhaps to one side.)
    """
    if logits.device.type == "mps":  # which has no float64
        logits, targets = logits.cpu(), targets.cpu()
    if logits.is_cuda and len(logits) >= EAGER_CHUNK:
        return in_chunks(
            _compiled_bits(logits.device),
            logits,
            targets,
            COMPILED_CHUNK if len(logits) >= COMPILED_CHUNK else EAGER_CHUNK,
        )
    return torch.cat(
        [reference_bits(*part) for part in zip(logits.split(EAGER_CHUNK), targets.split(EAGER_CHUNK), strict=True)]
    )


def reference_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """`token_bits` of all targets at once."""
    logits = logits.double()
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return (torch.logsumexp(logits, -1) - chosen) / math.log(2)


def in_chunks(bits: BitsFunction, logits: Tensor, targets: Tensor, size: int) -> Tensor:
    """`bits` of n >= size targets, always so many at a time, as a graph has one shape: the last piece may overlap."""
    parts, done = list[Tensor](), 0
    for end in (*range(size, len(logits), size), len(logits)):
        parts.append(bits(logits[end - size : end], targets[end - size : end])[done - end :])
        done = end
    return torch.cat(parts)


@cache
def _compiled_bits(device: torch.device) -> BitsFunction:
    return CompiledFunction(reference_bits, device)
