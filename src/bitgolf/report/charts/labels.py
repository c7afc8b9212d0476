"""Labels and ticks that all charts share."""

from __future__ import annotations

import math

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


def plain_number(value: float, step: float = 0.0) -> str:
    """A number at a tick: with separators of thousands, without an exponent below a million million.

    step: distance of the ticks, whose numbers get the digits in which they differ; 0 if it is not known.
    """
    last = math.floor(math.log10(step)) if step else 0
    if 1_000 <= abs(value) < 1e12:
        return f"{value:,.{min(max(-last, 0), 9)}f}"
    first = math.floor(math.log10(abs(value))) if value else last
    return f"{value:.{min(max(4, first - last + 1), 15) if step else 4}g}"


def number_ticks(axis: Axis, most: int, *, integer: bool = False) -> None:
    """At most about this many ticks at round numbers."""
    axis.set_major_locator(MaxNLocator(nbins=most, steps=TICK_STEPS, integer=integer))

    def tick(value: float, _position: int) -> str:
        places = axis.get_majorticklocs()
        return plain_number(value, abs(places[1] - places[0]) if len(places) > 1 else 0.0)

    axis.set_major_formatter(FuncFormatter(tick))
