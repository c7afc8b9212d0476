"""Quantization of a matrix whose inputs are correlated, for `bench/rate_distortion.py --correlated`.

Weights are independent Gaussians. The covariance H of the inputs has eigenvalues spread evenly in their logarithm over
three decades, with mean 1, in a random basis. The error is tr(E H Eᵀ) per weight. No code of R bits per weight has less
than the reverse water-filling of the eigenvalues (Cover and Thomas, section 10.3.3), which is the bound here: at high
rate, det(H)^(1/C) 4^-R. All codes are coded with contexts by the variance of neighbouring codes, so columns of different rates do
not share one frequency table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bitgolf.artifact.container import artifact_bytes
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.grids.clip import SdClip
from bitgolf.pack.coders import RangeCoder
from bitgolf.pack.streams import pack_tensors
from bitgolf.quantize.codecs.bit_allocation import EqualCost, EqualRate
from bitgolf.quantize.codecs.codec import Codec, IntRows
from bitgolf.quantize.codecs.gptq import GPTQ
from bitgolf.quantize.codecs.trellis import TrellisCodec
from bitgolf.quantize.encoding import context_models, decode_model, encode_model
from bitgolf.quantize.stats import MatrixStats

ROWS, COLUMNS, DECADES, SEEDS = 1024, 256, 3.0, (0, 1, 2)
DAMPING = 1e-6  # the covariance is known exactly
COLUMN_RATES = part(EqualCost, rows=False, matrices=False, min_sensitivity=1e-6)


def codecs(bits: float) -> dict[str, Spec[Codec]]:
    """The compared codecs. The first has no rate to choose; the others are given `bits` bits per weight."""
    given, activation = part(GPTQ, order="given", damping=DAMPING), part(GPTQ, damping=DAMPING)

    def trellis(states: int, allocation: Any, solver: Any = given) -> Spec[Codec]:
        return part(TrellisCodec, bits=bits, states=states, allocation=allocation, solver=solver)

    return {
        "GPTQ, uniform int6": part(IntRows, bits=6, clip=part(SdClip, k=13.0), solver=activation),
        "scalar, no feedback": trellis(1, part(EqualRate), None),
        "scalar, GPTQ, equal rates": trellis(1, part(EqualRate), activation),
        "scalar, GPTQ, rates by input feature (WaterSIC)": trellis(1, COLUMN_RATES),
        "256 states, GPTQ, equal rates": trellis(256, part(EqualRate), activation),
        "256 states, GPTQ, rates by input feature (ours)": trellis(256, COLUMN_RATES, activation),
    }


def compare(bits: float = 3.3) -> Iterator[dict[str, Any]]:
    """One row per codec and seed: bits per weight, error, and bits above the bound at that error."""
    for seed in SEEDS:
        w, stats, eigenvalues = problem(seed)
        for name, codec in codecs(bits).items():
            rate, error = measure(w, stats, codec)
            yield {
                "scheme": name,
                "seed": seed,
                "bits_per_weight": round(rate, 4),
                "error": round(error, 7),
                "gap_bits": round(rate - bound(error, eigenvalues), 4),
            }


def problem(seed: int) -> tuple[Tensor, MatrixStats, Tensor]:
    """The matrix (R, C), its statistics, and the eigenvalues (C,) of the covariance of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(ROWS, COLUMNS, generator=generator)
    eigenvalues = torch.logspace(0, -DECADES, COLUMNS, dtype=torch.float64)
    eigenvalues /= eigenvalues.mean()
    basis, _ = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, dtype=torch.float64, generator=generator))
    hessian = ((basis * eigenvalues) @ basis.T).float()
    return w, MatrixStats(hessian, torch.ones(ROWS), 1), eigenvalues


def measure(w: Tensor, stats: MatrixStats, codec: Spec[Codec]) -> tuple[float, float]:
    """Bits per weight of the artifact, and the error tr(E H Eᵀ) per weight of what it decodes to."""
    roles, rules, shapes = {"w": "matrix"}, (part(Rule, where="*", use=codec),), {"w": tuple(w.shape)}
    codes = encode_model({"w": w}, roles, rules, {"w": stats})
    sections = pack_tensors(
        codes, roles, part(RangeCoder, variance_contexts=True), context_models(shapes, roles, rules)
    )
    size = len(artifact_bytes(recipe={}, meta={}, sections=sections))
    error = (decode_model(codes, shapes, roles, rules)["w"] - w).double()
    return 8 * size / w.numel(), float(((error @ stats.hessian.double()) * error).sum()) / w.numel()


def bound(error: float, eigenvalues: Tensor) -> float:
    """The least bits per weight at this error per weight: reverse water-filling, by bisection on the water level."""
    low, high = 0.0, float(eigenvalues.max())
    for _ in range(100):
        level = 0.5 * (low + high)
        low, high = (level, high) if float(eigenvalues.clamp_max(level).mean()) < error else (low, level)
    return float((eigenvalues / eigenvalues.clamp_max(low)).log2().mean()) / 2 if low > 0 else math.inf
