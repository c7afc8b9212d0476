"""Charts of where the bits of a score go, by classes of targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitgolf.pipeline.result import RunResult
from bitgolf.report.charts.bars import BarRow, bar_chart
from bitgolf.report.web_page import chart_card, table
from bitgolf.score.result import BitsRow, MethodResult

COLUMNS = ("bits", "share of bits", "targets", "bytes", "bits per target", "bits per byte")


def bit_charts(result: RunResult) -> list[str]:
    """The cards of the last method whose bits are known by class."""
    known = [method for method in result.methods if method.breakdown and math.isfinite(method.bits)]
    if not known or not (found := known[-1].breakdown):
        return []
    method = known[-1]
    return [
        _shares_card("kinds", "Bits by kind of token (bits per byte)", "kind of token", found.kinds, method),
        _shares_card(
            "frequencies", "Bits by frequency of the word (bits per byte)", "the word occurs", found.frequencies, method
        ),
        _rates_card(
            "positions",
            "Bits per byte by position in the document",
            "number of tokens before it",
            found.positions,
            method,
        ),
        _rates_card(
            "lengths",
            "Bits per byte by length of the document",
            "number of tokens of the document",
            found.lengths,
            method,
        ),
    ]


def _shares_card(name: str, title: str, column: str, rows: Sequence[BitsRow], method: MethodResult) -> str:
    """What each class contributes to the bits per byte of the whole text."""
    bars = [BarRow(row.name, row.bits / method.bytes, f"{row.bits / method.bytes:.4f}") for row in rows]
    note = f"Each bar is the bits of a class divided by all bytes, so the bars sum to {method.bits / method.bytes:.4f}."
    return _card(name, title, column, rows, method, bars, note)


def _rates_card(name: str, title: str, column: str, rows: Sequence[BitsRow], method: MethodResult) -> str:
    """Bits per byte within each class."""
    bars = [BarRow(row.name, row.bits / row.bytes, f"{row.bits / row.bytes:.4f}") for row in rows if row.bytes]
    note = f"By the {column}. Each bar is the bits of a class divided by the bytes of its own targets."
    return _card(name, title, column, rows, method, bars, note) if bars else ""


def _card(
    name: str, title: str, column: str, rows: Sequence[BitsRow], method: MethodResult, bars: list[BarRow], note: str
) -> str:
    text = ", ".join(f"{bar.label} {bar.text}" for bar in bars)
    svg = bar_chart(name, f"{title}: {text}", bars, label="bits per byte")
    cells = [_cells(row, sum(row.bits for row in rows)) for row in rows]
    return chart_card(title, svg, f"Method {method.method}. {note}", table((column, *COLUMNS), cells))


def _cells(row: BitsRow, total: float) -> tuple[str, ...]:
    share = f"{row.bits / total:.1%}" if total else ""
    rate = f"{row.bits / row.bytes:.4f}" if row.bytes else ""
    return (
        row.name, f"{row.bits:,.0f}", share, f"{row.targets:,}", f"{row.bytes:,}", f"{row.bits / row.targets:.3f}", rate,
    )  # fmt: skip
