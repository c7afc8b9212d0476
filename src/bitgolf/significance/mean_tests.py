"""One-sided t tests of an improvement against a margin. Lower scores are better; samples are scores of single seeds.

The null hypothesis is always that the mean improved by at most the margin. Distributions are those of `scipy.special`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Literal

import msgspec
from scipy.special import stdtr, stdtrit

from bitgolf.errors import UsageError

Method = Literal["welch", "paired", "constant"]
FEWEST_SEEDS = 2
"""Seeds from which a spread can be estimated at all."""


class Significance(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a test.

    method: welch (two groups of seeds), paired (equal seeds), constant (against a number without a spread).
    improvement: mean of the old scores minus that of the new ones. margin: of which it must be more.
    error: standard error of the improvement. degrees: of freedom. statistic: (improvement - margin) / error.
    p: chance of a statistic at least as large if the mean improved by the margin only.
    least: the improvement that is exceeded with the stated confidence. confidence: of `least`.
    """

    method: Method
    improvement: float
    margin: float
    error: float
    degrees: float
    statistic: float
    p: float
    least: float
    confidence: float


def welch(new: Sequence[float], old: Sequence[float], *, margin: float = 0.0, confidence: float = 0.99) -> Significance:
    """Welch's test of two groups of seeds with unequal spreads.

    Raises `UsageError` for fewer than two scores in a group, scores that are not finite, and groups without any spread.
    """
    _check(new, old)
    parts = [variance(new) / len(new), variance(old) / len(old)]
    squares = [part**2 / (len(group) - 1) for part, group in zip(parts, (new, old), strict=True)]
    degrees = sum(parts) ** 2 / sum(squares) if sum(squares) else 1.0
    return _result("welch", fmean(old) - fmean(new), margin, math.sqrt(sum(parts)), degrees, confidence)


def paired(
    new: Sequence[float], old: Sequence[float], *, margin: float = 0.0, confidence: float = 0.99
) -> Significance:
    """Test of the differences between scores of equal seeds, in the same order. Raises as `welch` does."""
    _check(new, old)
    if len(new) != len(old):
        raise UsageError(f"a paired test needs as many new scores as old ones, got {len(new)} and {len(old)}")
    differences = [b - a for a, b in zip(new, old, strict=True)]
    error = math.sqrt(variance(differences) / len(differences))
    return _result("paired", fmean(differences), margin, error, len(differences) - 1, confidence)


def against_constant(
    new: Sequence[float], old: float, *, margin: float = 0.0, confidence: float = 0.99
) -> Significance:
    """Test against a published number, whose own spread is not known and is taken as none. Raises as `welch` does."""
    _check(new)
    error = math.sqrt(variance(new) / len(new))
    return _result("constant", old - fmean(new), margin, error, len(new) - 1, confidence)


def _check(*groups: Sequence[float]) -> None:
    for group in groups:
        if len(group) < FEWEST_SEEDS:
            message = f"a test needs at least {FEWEST_SEEDS} seeds on each side, got {len(group)}"
            raise UsageError(message, hint="a single score has no spread: run more seeds")
        if not all(map(math.isfinite, group)):
            raise UsageError(f"scores must be finite, got {list(group)}")


def _result(
    method: Method, improvement: float, margin: float, error: float, degrees: float, confidence: float
) -> Significance:
    if error == 0:
        message = "the scores have no spread at all, so they are repetitions of one run"
        raise UsageError(message, hint="run different seeds")
    statistic = (improvement - margin) / error
    return Significance(
        method=method,
        improvement=improvement,
        margin=margin,
        error=error,
        degrees=degrees,
        statistic=statistic,
        p=float(stdtr(degrees, -statistic)),
        least=improvement - float(stdtrit(degrees, confidence)) * error,
        confidence=confidence,
    )
