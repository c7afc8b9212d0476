"""Portable arithmetic as plain loops over numpy scalars, one rounding at a time: what the kernels must compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
F = np.float32
D = np.float64
LN2 = D(6.93147180369123816490e-01), D(1.90821492927058770002e-10)
HALF_PI = D(1.57079632673412561417e00), D(6.07710050630396597660e-11), D(2.02226624879595063154e-21)


def exp(x: float) -> float:
    """exp(x) of a float64 between -700 and 700, clamped otherwise."""
    x = D(min(max(x, -700.0), 700.0))
    power = np.rint(x * D(1.4426950408889634))
    r = (x - power * LN2[0]) - power * LN2[1]
    series = D(1.0) / D(math.factorial(9))
    for k in range(8, -1, -1):
        series = series * r + D(1.0) / D(math.factorial(k))
    return D(math.ldexp(float(series), int(power)))


def log(x: float) -> float:
    """log(x) of a float64."""
    if not x > 0 or x == math.inf:
        return D(-math.inf) if x == 0 else D(math.inf) if x == math.inf else D(math.nan)
    m, power = math.frexp(float(x))
    if m < math.sqrt(0.5):
        m, power = 2 * m, power - 1
    s = (D(m) - D(1.0)) / (D(m) + D(1.0))
    square = s * s
    series = D(1.0) / D(21.0)
    for k in range(19, 2, -2):
        series = series * square + D(1.0) / D(k)
    tail = series * square * s
    return D(power) * LN2[0] + (D(2.0) * s + (D(2.0) * tail + D(power) * LN2[1]))


def sine(angle: float, quarter_turns: int) -> float:
    """sin(angle + quarter_turns * pi / 2) of a float64."""
    angle = D(angle)
    quadrant = np.rint(angle * D(0.6366197723675814))
    r = ((angle - quadrant * HALF_PI[0]) - quadrant * HALF_PI[1]) - quadrant * HALF_PI[2]
    turn, square = int(quadrant) + quarter_turns, r * r
    odd = not turn % 2
    last = 17 if odd else 16
    series = D(1.0) / D(math.factorial(last))
    for k in range(last - 2, 1, -2):
        sign = D(-1.0) if k // 2 % 2 else D(1.0)
        series = series * square + sign / D(math.factorial(k))
    value = r + (series * square) * r if odd else series * square + D(1.0)
    return -value if turn % 4 >= 2 else value


def sigmoid(x: float) -> float:
    return D(1.0) / (D(1.0) + exp(-x))


def silu(x: float) -> float:
    return D(x) / (D(1.0) + exp(-x))


def tanh(x: float) -> float:
    x = D(x)
    power = exp(D(2.0) * x)
    return x - x * x * x / D(3.0) if abs(x) < 2**-10 else (power - D(1.0)) / (power + D(1.0))


def elementwise(function: Any, x: Array) -> Array:
    """A function of float64 for each element, rounded to float32."""
    return np.array([F(function(D(value))) for value in x.ravel()], F).reshape(x.shape)


def product(a: Array, b: Array) -> Array:
    """a (M, K) times b (K, N) in float32, each sum in ascending order."""
    out = np.zeros((len(a), b.shape[1]), F)
    for i in range(len(a)):
        for j in range(b.shape[1]):
            for k in range(len(b)):
                out[i, j] = F(out[i, j] + F(a[i, k] * b[k, j]))
    return out


def row_sum(x: Array, *, square: bool = False) -> float:
    """The sum of float64 numbers, or of their squares, in eight partial sums."""
    lanes = [D(0.0)] * 8
    for i, value in enumerate(x):
        lanes[i % 8] = lanes[i % 8] + (D(value) * D(value) if square else D(value))
    a, b, c, d = (lanes[i] + lanes[i + 4] for i in range(4))
    return (a + c) + (b + d)


def rms_norm(x: Array, epsilon: float) -> Array:
    """Each row of x (R, n)."""
    scales = [D(1.0) / np.sqrt(row_sum(row, square=True) / D(len(row)) + D(epsilon)) for row in x]
    return np.array([[F(D(v) * scale) for v in row] for row, scale in zip(x, scales, strict=True)], F)


def softmax(x: Array, *, logarithm: bool) -> Array:
    """Each row of x (R, n)."""
    out = np.empty_like(x)
    for row, result in zip(x, out, strict=True):
        largest = D(row.max())
        powers = np.array([exp(D(v) - largest) for v in row])
        total = row_sum(powers)
        offset = log(total)
        result[:] = [F((D(v) - largest) - offset) for v in row] if logarithm else [F(p / total) for p in powers]
    return out


def dot(a: Array, b: Array) -> Any:
    """A dot product in 16 partial sums, and the rest in order."""
    whole = len(a) - len(a) % 16
    lanes = [F(0.0)] * 16
    for i in range(whole):
        lanes[i % 16] = F(lanes[i % 16] + F(a[i] * b[i]))
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [F(x + y) for x, y in zip(lanes[:half], lanes[half:], strict=True)]
    total = lanes[0]
    for i in range(whole, len(a)):
        total = F(total + F(a[i] * b[i]))
    return total


def attention(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Array:
    """q (B, H, T, d), k and v (B, G, S, d), mask (B, H, T, S) -> (B, H, T, d)."""
    out = np.zeros((*q.shape[:3], v.shape[3]), F)
    for b, h, t in np.ndindex(*q.shape[:3]):
        g, keys = h // (q.shape[1] // k.shape[1]), np.flatnonzero(mask[b, h, t])
        if not len(keys):
            continue
        scores = [F(dot(q[b, h, t], k[b, g, s]) * F(scale)) for s in keys]
        largest, total, sums = D(max(scores)), D(0.0), np.zeros(v.shape[3], F)
        for score, s in zip(scores, keys, strict=True):
            weight = F(exp(D(score) - largest))
            total = total + D(weight)
            for c in range(len(sums)):
                sums[c] = F(sums[c] + F(weight * v[b, g, s, c]))
        out[b, h, t] = [F(x / F(total)) for x in sums]
    return out


def cumulative_sum(x: Array) -> Array:
    """Along a vector."""
    out, total = np.empty_like(x), None
    for i, value in enumerate(x):
        total = value if total is None else F(total + value)
        out[i] = total
    return out
