"""What a check of data found: a rule, how bad it is to break it, and what was seen."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
"""error: do not use it; warning: it may mislead; note: nothing is wrong."""


class DataFinding(NamedTuple):
    """One finding about a tokenizer or a folder of data: the rule that it breaks, and what was seen."""

    rule: str
    severity: Severity
    message: str
