"""Weights of bytes that follow a generalized Gaussian, as integers that are identical on every machine.

The parameters are integers as they are stored: centre in 1/256, spread s for a width of 2 ** (s / 16 - 4), power in 1/32.
"""

from __future__ import annotations

import decimal
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

MAX_WEIGHT = 1 << 20  # of a byte in a prior; 256 such weights times 2**30 symbols stay below 2**63

_EXACT = decimal.Context(prec=20, rounding=decimal.ROUND_HALF_EVEN)
_POWERS = np.array([16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 96, 128, 192])


def fit_generalized_gaussian(exact: Counts) -> tuple[int, int, int]:
    """Approximate maximum-likelihood fit (centre, spread, power). Floats suffice, since the result is stored."""
    values, total = np.arange(256), int(exact.sum())
    centre = min(65535, round(256 * float((exact * values).sum() / total)))
    power = _POWERS[:, None] / 32
    distances = np.abs(values - centre / 256) ** power  # (powers, 256)
    # The maximum-likelihood spread of the continuous distribution is the centre of a search over stored spreads.
    initial = (power[:, 0] * (distances @ exact) / total) ** (1 / power[:, 0])
    spread = np.clip(np.rint(16 * np.log2(initial) + 64)[:, None] + np.arange(-12, 9), 0, 255).astype(np.int64)
    width = 2.0 ** ((spread - 64) / 16 * power)
    log2_weights = -np.minimum(distances[:, None] / (math.log(2) * width)[..., None], math.log2(MAX_WEIGHT))
    bits = total * np.log2(np.exp2(log2_weights).sum(-1)) - log2_weights @ exact
    best, at = np.unravel_index(np.argmin(bits), bits.shape)
    return centre, int(spread[best, at]), int(_POWERS[best])


@lru_cache(maxsize=1024)
def generalized_gaussian(centre: int, spread: int, power: int) -> Counts:
    """Weights (256,) of the bytes, 1 to `MAX_WEIGHT`, identical on all machines. Do not modify the cached array.

    Floats are computed first. Where they are so near to a whole number that their rounding errors, below 1e-5, could
    change the result, it is computed in decimal arithmetic.
    """
    distance = np.abs(256 * np.arange(256) - centre) / 256
    with np.errstate(over="ignore"):
        weights = MAX_WEIGHT * np.exp(-((distance / 2.0 ** ((spread - 64) / 16)) ** (power / 32)))
    counts = np.maximum(weights, 1).astype(np.int64)
    for x in np.flatnonzero((np.abs(weights - np.rint(weights)) < 1e-4) & (weights > 0.5)):
        counts[x] = _exact_weight(abs(256 * int(x) - centre), spread, power)
    return counts


def _exact_weight(distance: int, spread: int, power: int) -> int:
    """Weight of a byte at a distance of 1/256 `distance` from the centre, in decimal arithmetic."""
    if not distance:
        return MAX_WEIGHT
    exponent = _EXACT.divide(decimal.Decimal(power), 32)
    width = _EXACT.multiply(_EXACT.divide(decimal.Decimal(spread - 64), 16), _EXACT.ln(decimal.Decimal(2)))
    # Beyond this distance the weight would be below 1: exp(-exp(3)) * MAX_WEIGHT < 1.
    reach = _EXACT.exp(_EXACT.add(_EXACT.divide(decimal.Decimal(3), exponent), width))
    if (length := _EXACT.divide(decimal.Decimal(distance), 256)) >= reach:
        return 1
    scaled = _EXACT.exp(_EXACT.multiply(exponent, _EXACT.subtract(_EXACT.ln(length), width)))
    return max(1, int(_EXACT.multiply(_EXACT.exp(_EXACT.minus(scaled)), MAX_WEIGHT)))
