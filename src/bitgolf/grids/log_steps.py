"""Steps on a logarithmic scale, one byte each: powers of two with fractional exponents, usually in eighths.

They decode to the same float32 on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS_PER_DOUBLING = 8
FRACTIONS = np.array(  # 2**(k/16) as literals, since math libraries differ in the last bit
    (1.0, 1.0442737, 1.0905077, 1.1387886, 1.1892071, 1.2418578, 1.2968396, 1.3542556,
     1.4142135, 1.4768262, 1.5422108, 1.6104903, 1.6817929, 1.7562522, 1.8340081, 1.9152066), np.float32
)  # fmt: skip


def encode_log_steps(exponents: NDArray[np.floating]) -> tuple[NDArray[np.uint8], float]:
    """Return the codes of the steps 2**exponents, uint8, and the exponent of code 0.

    The relative error is at most 4.4 %. Exponents 32 or more above the smallest saturate at code 255.
    """
    lowest = float(exponents.min()) if exponents.size else 0.0
    return np.clip(np.rint((exponents - lowest) * STEPS_PER_DOUBLING), 0, 255).astype(np.uint8), lowest


def decode_log_steps(codes: NDArray[np.uint8], steps_per_doubling: int = STEPS_PER_DOUBLING) -> NDArray[np.float32]:
    """Return 2**(codes / steps_per_doubling), float32, bit-identical on every machine.

    steps_per_doubling: steps per doubling; a divisor of 16.
    """
    fractions = FRACTIONS[:: len(FRACTIONS) // steps_per_doubling]
    return np.ldexp(fractions[codes % steps_per_doubling], (codes // steps_per_doubling).astype(np.int32))
