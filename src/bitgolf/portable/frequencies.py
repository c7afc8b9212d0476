"""Probabilities as integers for the range coder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TOTAL = 1 << 24
"""Sum of the weights of a table. A multiple of 1 / TOTAL up to 1 is exact in float32."""


def integer_weights(probabilities: Floats) -> NDArray[np.int64]:
    """Weights (n, V) that add up to `TOTAL`: floor(p TOTAL), and the rest for the first of the likeliest tokens.

    A weight may be 0: the coder adds 1 to each.
    """
    weights = (probabilities * np.float32(TOTAL)).astype(np.int64)  # an exact product, then truncation
    rest = TOTAL - weights.sum(1)
    weights[np.arange(len(weights)), probabilities.argmax(1)] += rest
    return weights


def dyadic_probabilities(probabilities: Floats) -> Floats:
    """`integer_weights` / TOTAL.

    The coder adds up such numbers without rounding, in any order, so that its tables depend on the integers alone.
    """
    return integer_weights(probabilities).astype(np.float32) / np.float32(TOTAL)
