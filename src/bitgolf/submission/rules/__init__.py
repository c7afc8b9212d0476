"""Rules for record folders, by subject. docs/rules.md has a paragraph on each: why it exists, how it can be wrong."""

from __future__ import annotations

from bitgolf.submission.finding import RecordRule
from bitgolf.submission.rules import (
    byte_table,
    clocks,
    contents,
    data,
    leakage,
    options,
    scores,
    sizes,
    substitutes,
    switches,
)

RULES: tuple[RecordRule, ...] = (
    *contents.RULES,
    *scores.RULES,
    *sizes.RULES,
    *clocks.RULES,
    *data.RULES,
    *options.RULES,
    *switches.RULES,
    *substitutes.RULES,
    *byte_table.RULES,
    *leakage.RULES,
)
