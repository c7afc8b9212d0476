"""Elementary functions from IEEE additions, products and divisions in float64, in a fixed order.

The functions for float32 compute in float64 and round once: the error is below 0.51 units in the last place. Those for
float64 (sine and cosine) have an error below 1 unit in the last place, or 2^-60 near their zeros. A polynomial is a
Taylor series that is long enough; it is evaluated by Horner's rule. Reductions of the argument follow Muller,
Elementary Functions (2016), chapter 11 (Cody and Waite).

The loops have no calls and no branches that prevent vectorization. Every element is computed by itself, so results do
not depend on the width of vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitgolf.portable.float_bits import bits_of, float_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # HIGH has 32 bits
HALF_PI_1 = 1.57079632673412561417e00  # the first 33 bits of pi / 2
HALF_PI_2 = 6.07710050630396597660e-11  # the next 33 bits
HALF_PI_3 = 2.02226624879595063154e-21  # the rest
TWO_OVER_PI = 0.6366197723675814
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
LARGEST_EXPONENT = 700.0  # exp of more is infinite in float32, exp of less than its negative is 0
LARGEST_ANGLE = 1e6  # radians: the quadrant times HALF_PI_1 is then exact
SMALL_TANH = 2.0**-10


def exp_value(x: float) -> float:
    """exp(x) of a float64, clamped to ±700, with a relative error below 2^-36. NaN stays NaN."""
    x = LARGEST_EXPONENT if x > LARGEST_EXPONENT else x
    x = -LARGEST_EXPONENT if x < -LARGEST_EXPONENT else x
    power = np.rint(x * LOG2_E)
    r = (x - power * LN2_HIGH) - power * LN2_LOW
    series = 1.0 / 362880.0
    series = series * r + 1.0 / 40320.0
    series = series * r + 1.0 / 5040.0
    series = series * r + 1.0 / 720.0
    series = series * r + 1.0 / 120.0
    series = series * r + 1.0 / 24.0
    series = series * r + 1.0 / 6.0
    series = series * r + 0.5
    series = series * r + 1.0
    series = series * r + 1.0
    return series * float_of((np.int64(np.int32(power)) + np.int64(1023)) << np.int64(52))


def log_value(x: float) -> float:
    """log(x) of a normal float64, with a relative error below 2^-49; 0 gives -inf, negative numbers and NaN give NaN."""
    bits = bits_of(x)
    power = (bits - np.int64(SQRT_HALF_BITS)) >> np.int64(52)
    m = float_of(bits - (power << np.int64(52)))  # in [sqrt(1/2), sqrt(2))
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    series = 1.0 / 21.0
    series = series * square + 1.0 / 19.0
    series = series * square + 1.0 / 17.0
    series = series * square + 1.0 / 15.0
    series = series * square + 1.0 / 13.0
    series = series * square + 1.0 / 11.0
    series = series * square + 1.0 / 9.0
    series = series * square + 1.0 / 7.0
    series = series * square + 1.0 / 5.0
    series = series * square + 1.0 / 3.0
    tail = series * square * s
    exponent = np.float64(np.int32(power))
    value = exponent * LN2_HIGH + (2.0 * s + (2.0 * tail + exponent * LN2_LOW))
    value = -np.inf if x == 0.0 else value
    value = np.inf if x == np.inf else value
    return value if x >= 0.0 else np.nan


def sine_value(angle: float, quarter_turns: int) -> float:
    """sin(angle + quarter_turns * pi / 2) of a float64 of at most `LARGEST_ANGLE`."""
    quadrant = np.rint(angle * TWO_OVER_PI)
    r = ((angle - quadrant * HALF_PI_1) - quadrant * HALF_PI_2) - quadrant * HALF_PI_3
    square = r * r
    sine = 1.0 / 355687428096000.0
    sine = sine * square - 1.0 / 1307674368000.0
    sine = sine * square + 1.0 / 6227020800.0
    sine = sine * square - 1.0 / 39916800.0
    sine = sine * square + 1.0 / 362880.0
    sine = sine * square - 1.0 / 5040.0
    sine = sine * square + 1.0 / 120.0
    sine = sine * square - 1.0 / 6.0
    sine = r + (sine * square) * r
    cosine = 1.0 / 20922789888000.0
    cosine = cosine * square - 1.0 / 87178291200.0
    cosine = cosine * square + 1.0 / 479001600.0
    cosine = cosine * square - 1.0 / 3628800.0
    cosine = cosine * square + 1.0 / 40320.0
    cosine = cosine * square - 1.0 / 720.0
    cosine = cosine * square + 1.0 / 24.0
    cosine = cosine * square - 0.5
    cosine = cosine * square + 1.0
    turn = np.int32(quadrant) + np.int32(quarter_turns)
    value = cosine if turn & 1 else sine
    return -value if turn & 2 else value


def exp_kernel(x: Floats, out: Floats) -> None:
    """exp(x)."""
    for i in range(x.size):
        out[i] = exp_value(np.float64(x[i]))


def log_kernel(x: Floats, out: Floats) -> None:
    """log(x)."""
    for i in range(x.size):
        out[i] = log_value(np.float64(x[i]))


def sigmoid_kernel(x: Floats, out: Floats) -> None:
    """1 / (1 + exp(-x))."""
    for i in range(x.size):
        out[i] = 1.0 / (1.0 + exp_value(-np.float64(x[i])))


def silu_kernel(x: Floats, out: Floats) -> None:
    """x / (1 + exp(-x))."""
    for i in range(x.size):
        value = np.float64(x[i])
        out[i] = value / (1.0 + exp_value(-value))


def tanh_kernel(x: Floats, out: Floats) -> None:
    """(e - 1) / (e + 1) with e = exp(2x), or x - x^3 / 3 for small x."""
    for i in range(x.size):
        value = np.float64(x[i])
        power = exp_value(2.0 * value)
        ratio = (power - 1.0) / (power + 1.0)
        cubic = value - value * value * value / 3.0
        out[i] = cubic if -SMALL_TANH < value < SMALL_TANH else ratio


def square_root_kernel(x: Floats, out: Floats) -> None:
    """sqrt(x), correctly rounded; torch's is not where it calls MKL."""
    for i in range(x.size):
        out[i] = np.sqrt(x[i])


def inverse_root_kernel(x: Floats, out: Floats) -> None:
    """1 / sqrt(x)."""
    for i in range(x.size):
        out[i] = 1.0 / np.sqrt(np.float64(x[i]))


def power_kernel(base: Floats, exponent: Floats, out: Floats) -> None:
    """exp(exponent * log(base)) of a base that is not negative; one of the two may have a single element."""
    for i in range(out.size):
        b = np.float64(base[i if base.size > 1 else 0])
        out[i] = exp_value(np.float64(exponent[i if exponent.size > 1 else 0]) * log_value(b))


def sine_kernel(x: Doubles, quarter_turns: int, out: Doubles) -> None:
    """sin(x + quarter_turns * pi / 2): the sine for 0, the cosine for 1."""
    for i in range(x.size):
        out[i] = sine_value(x[i], quarter_turns)
