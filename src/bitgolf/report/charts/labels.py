"""Labels and ticks that all charts share."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bitgolf.errors import printable

LONGEST_LABEL = 22
"""Characters of a label; a longer one loses its end."""
TICK_STEPS = [1, 2, 5, 10]


def short_label(text: str) -> str:
    """A label without control characters, of at most `LONGEST_LABEL` characters."""
    text = printable(text)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def plain_number(value: float, _position: int = 0) -> str:
    """A number at a tick: with separators of thousands, without an exponent below a million million."""
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e12 else f"{value:.4g}"


def number_ticks(axis: Axis, most: int, *, integer: bool = False) -> None:
    """At most about this many ticks at round numbers."""
    axis.set_major_locator(MaxNLocator(nbins=most, steps=TICK_STEPS, integer=integer))
    axis.set_major_formatter(FuncFormatter(plain_number))
