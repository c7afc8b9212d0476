"""Ranges of numeric settings, as annotations: `rows: BatchRows`.

`config.validate` checks them when a node of a recipe is made, so a value that no run can use is refused where it is
written, before any work. The ranges are wide: they exclude what has no meaning (no layers, negative seconds, NaN,
infinity) and what no machine can hold, not what is unwise. Dependencies between settings are checked by constructors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """An interval of numbers. Both ends belong to it unless `above` or `below` excludes the lower or the upper one."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether the value is in the interval. NaN never is."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if not (self.above or self.below):
            return f"from {_short(self.low)} to {_short(self.high)}"
        low = f"above {_short(self.low)}" if self.above else f"at least {_short(self.low)}"
        return f"{low} and {'below' if self.below else 'at most'} {_short(self.high)}"


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


LARGE = 1e12
"""The largest absolute value of a real number without a natural limit."""

# ---- whole numbers -------------------------------------------------------------------------------------------------

Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
ByteCount = Annotated[int, Range(1, 10**12)]

LayerCount = Annotated[int, Range(1, 1000)]
LayerCountOrZero = Annotated[int, Range(0, 1000)]
LayerIndex = Annotated[int, Range(0, 999)]
Width = Annotated[int, Range(1, 65_536)]
"""Channels, heads, hidden units, ranks or columns."""
WidthOrZero = Annotated[int, Range(0, 65_536)]
Vocabulary = Annotated[int, Range(264, 65_536)]
"""Tokens of a trained tokenizer: at least 256 bytes and the special tokens; shards store 16 bits per token."""
Buckets = Annotated[int, Range(2, 2**24)]

TokenCount = Annotated[int, Range(1, 2**24)]
"""Tokens of one sequence in training or calibration, or of a distance within it."""
TokenCountOrZero = Annotated[int, Range(0, 2**24)]
WindowTokens = Annotated[int, Range(1, 2**17)]
"""Tokens that a scoring method reads at once: its memory grows with them."""
WindowTokensOrZero = Annotated[int, Range(0, 2**17)]
BatchRows = Annotated[int, Range(1, 2**16)]
BatchRowsOrZero = Annotated[int, Range(0, 2**16)]
ScoringRows = Annotated[int, Range(1, 4096)]
AdapterRank = Annotated[int, Range(0, 4096)]
Repetitions = Annotated[int, Range(0, 1000)]
IntegerBits = Annotated[int, Range(2, 8)]
NGramOrder = Annotated[int, Range(1, 64)]

# ---- real numbers --------------------------------------------------------------------------------------------------

Finite = Annotated[float, Range(-LARGE, LARGE)]
Positive = Annotated[float, Range(0, LARGE, above=True)]
NonNegative = Annotated[float, Range(0, LARGE)]
Seconds = Annotated[float, Range(0, 1e9)]
LearningRate = Annotated[float, Range(0, 100)]
WeightDecayFactor = Annotated[float, Range(0, 1000)]
Epsilon = Annotated[float, Range(0, 1, above=True)]
Temperature = Annotated[float, Range(0, 100, above=True)]

Fraction = Annotated[float, Range(0, 1)]
FractionBelowOne = Annotated[float, Range(0, 1, below=True)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
InnerFraction = Annotated[float, Range(0, 1, above=True, below=True)]
Betas = tuple[FractionBelowOne, FractionBelowOne]
"""Decay rates of the moving averages of an optimizer."""
