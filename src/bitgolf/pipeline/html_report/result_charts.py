"""Charts of a run's result: score by stage, bytes of the artifact, and other compressors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from bitgolf.artifact.ledger import LedgerEntry
from bitgolf.pipeline.html_report.contents import ReportContents
from bitgolf.pipeline.result import RunResult
from bitgolf.report.charts.areas import area_chart, area_color
from bitgolf.report.charts.bars import BarRow, bar_chart, steps_chart
from bitgolf.report.web_page import chart_card, table

SMALL_SECTIONS = "small sections"
SMALLEST_AREA = 0.01
"""Share of an artifact below which its sections are drawn as one area."""


def result_charts(contents: ReportContents) -> list[str]:
    """The cards for which a run has numbers."""
    cards = (_bpb_card(contents.result), _bytes_card(contents), _compressors_card(contents.result))
    return [card for card in cards if card]


def bpb_rows(result: RunResult) -> list[BarRow]:
    """Bits per byte by stage, with the bytes of the weights. A method whose score stands as `packed` is not repeated."""
    found = [(name, bpb) for name, bpb in result.bpb.items() if bpb is not None and math.isfinite(bpb)]
    always, packed = ("trained", "averaged", "packed"), result.bpb.get("packed")
    shown = [(name, bpb) for name, bpb in found if name in always or bpb != packed]
    return [BarRow(name, bpb, f"{bpb:.4f}", detail=f"{_stage_bytes(result, name):,} B") for name, bpb in shown]


def _stage_bytes(result: RunResult, stage: str) -> int:
    """Bytes of the weights that were scored: float32 before packing, then what counts against the cap."""
    return 4 * result.params if stage in ("trained", "averaged") else result.bytes.total


def _bpb_card(result: RunResult) -> str:
    rows = bpb_rows(result)
    if not rows:
        return ""
    text = ", ".join(f"{row.label} {row.text}" for row in rows)
    svg = steps_chart("bpb", f"Bits per byte by stage: {text}", rows, label="bits per byte")
    changes = ["", *(f"{row.value - before.value:+.4f}" for before, row in pairwise(rows))]
    cells = [
        (row.label, row.text, change, row.detail.removesuffix(" B")) for row, change in zip(rows, changes, strict=True)
    ]
    how = f" (method {result.methods[0].method})" if result.methods else ""
    note = (
        f"Held-out text, {result.held_out.bytes:,} bytes. Below each stage: bytes of the weights, as float32 before they"
        f" are packed. From “packed”{how} on, the artifact is read back from disk."
    )
    columns = ("stage", "bits per byte", "change", "bytes of the weights")
    return chart_card("Bits per byte by stage, with bytes", svg, note, table(columns, cells))


def _bytes_card(contents: ReportContents) -> str:
    entries = sorted(contents.ledger, key=lambda entry: -entry.bytes)
    if not entries:
        return ""
    sizes, total = contents.result.bytes, sum(entry.bytes for entry in entries)
    areas = _areas(entries, total)
    svg = area_chart("bytes", "Areas: bytes of the artifact by section, as in the table", areas)
    code = f"unknown ({sizes.code_note})" if sizes.code is None else f"{sizes.code:,} bytes"
    note = (
        f"artifact.bg: {total:,} bytes, of which {sizes.model:,} count against the cap of {sizes.cap:,}"
        f" (all but the tokenizer). Code, the script that `bitgolf export` writes: {code},"
        f" {'counted too' if sizes.code_counts else 'not counted'}."
    )
    cells = [
        (e.name, f"{e.bytes:,}", "" if e.bits_per_element is None else f"{e.bits_per_element:.3f}") for e in entries
    ]
    columns, sums = ("section", "bytes", "bits per element"), ("total", f"{total:,}", "")
    by_name = {area.label: area_color(i) for i, area in enumerate(areas)}
    colors = [by_name.get(entry.name) or by_name[SMALL_SECTIONS] for entry in entries if entry.bytes]
    return chart_card("Bytes of the artifact by section", svg, note, table(columns, [*cells, sums], colors=colors))


def _areas(entries: Sequence[LedgerEntry], total: int) -> list[BarRow]:
    """The sections as areas, the largest first. Small ones together are one area."""
    large = [entry for entry in entries if entry.bytes >= SMALLEST_AREA * total]
    rows = [BarRow(entry.name, entry.bytes, f"{entry.bytes:,}") for entry in large]
    rest = total - sum(entry.bytes for entry in large)
    rows += [BarRow(SMALL_SECTIONS, rest, f"{rest:,}")] * bool(rest)
    return sorted(rows, key=lambda row: -row.value)


def _compressors_card(result: RunResult) -> str:
    trip, own = result.roundtrip, result.methods[-1] if result.methods else None
    others = {} if trip is None else {k: v for k, v in trip.general_compressors_bpb.items() if math.isfinite(v)}
    if trip is None or own is None or not others or not math.isfinite(own.bpb):
        return ""
    rows = [BarRow(name, bpb, f"{bpb:.4f}", marked=False) for name, bpb in others.items()]
    rows.append(BarRow("this model", own.bpb, f"{own.bpb:.4f}"))
    text = ", ".join(f"{row.label} {row.text}" for row in rows)
    svg = bar_chart("compressors", f"Bits per byte of held-out text: {text}", rows, label="bits per byte")
    part = trip.general_compressors_bytes
    whole = "the same text" if part == result.held_out.bytes else f"its first {part:,} bytes"
    note = (
        f"Held-out text of {result.held_out.bytes:,} bytes by the method {own.method}; the compressors code {whole} as"
        " one file. The size of the model and of the programs is not counted."
    )
    cells = [(row.label, row.text, f"{row.value / min(others.values()):.0%}") for row in rows]
    columns = ("", "bits per byte", "relative to best")
    return chart_card("General compressors (bits per byte)", svg, note, table(columns, cells))
