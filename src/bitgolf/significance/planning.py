"""Seeds that a wanted difference needs, the noise between repeated runs, and the price of many tries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance

import msgspec
from scipy.special import chdtri, nctdtr, stdtrit

from bitgolf.errors import UsageError

MOST_SEEDS = 1_000
"""Seeds per side above which no number is given."""


class NoiseFloor(msgspec.Struct, frozen=True):
    """Spread between runs that differ in nothing but the seed.

    deviation: standard deviation, pooled over groups. low, high: its confidence interval. degrees: of freedom.
    """

    deviation: float
    low: float
    high: float
    degrees: int


def noise_floor(groups: Sequence[Sequence[float]], *, confidence: float = 0.95) -> NoiseFloor:
    """Return the spread within groups of repeated runs; groups of one run say nothing. Raises `UsageError` without any."""
    repeated = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in repeated)
    if not degrees:
        raise UsageError("no run was repeated with another seed", hint="run at least two seeds of one recipe")
    squares = sum(variance(group) * (len(group) - 1) for group in repeated)
    tail = (1 - confidence) / 2
    low, high = (math.sqrt(squares / float(chdtri(degrees, p))) for p in (tail, 1 - tail))
    return NoiseFloor(math.sqrt(squares / degrees), low, high, degrees)


def power(improvement: float, deviation: float, seeds: int, *, margin: float, alpha: float) -> float:
    """Return the chance that a test of `seeds` new against as many old runs finds an improvement beyond the margin."""
    degrees = 2 * (seeds - 1)
    shift = (improvement - margin) / (deviation * math.sqrt(2 / seeds))
    return 1 - float(nctdtr(degrees, shift, float(stdtrit(degrees, 1 - alpha))))


def seeds_needed(
    improvement: float, deviation: float, *, margin: float, alpha: float = 0.01, chance: float = 0.8
) -> int | None:
    """Return the seeds on each side with which an improvement is found with a chance of at least `chance`.

    deviation: standard deviation between seeds, of both sides. None if more than `MOST_SEEDS` are needed, or the
    improvement is within the margin.
    """
    if deviation <= 0:
        raise UsageError(f"the spread between seeds must be above 0, got {deviation}")
    if improvement <= margin:
        return None
    return next(
        (n for n in range(2, MOST_SEEDS + 1) if power(improvement, deviation, n, margin=margin, alpha=alpha) >= chance),
        None,
    )


def after_tries(p: float, tries: int) -> float:
    """Return the chance that the best of `tries` independent tests has a p at most this small by chance (Šidák, 1967)."""
    if tries < 1:
        raise UsageError(f"the number of tries must be at least 1, got {tries}")
    return -math.expm1(tries * math.log1p(-p)) if p < 1 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p of several tests, corrected for their number (Holm, 1979), in the given order."""
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
