"""Findings of checks on data and tokenizers."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
"""error: unusable; warning: results may mislead; note: nothing is wrong."""


class DataFinding(NamedTuple):
    """A finding about a tokenizer or a data folder. rule: identifier of the check; message: what was found."""

    rule: str
    severity: Severity
    message: str
