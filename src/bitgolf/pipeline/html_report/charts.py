"""The charts of a run's page, each with its numbers as a sentence or a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from bitgolf.artifact.ledger import LedgerEntry
from bitgolf.pipeline.html_report.contents import ReportContents
from bitgolf.pipeline.result import RunResult
from bitgolf.report.charts import BarRow, Level, area_chart, area_color, bar_chart, line_chart, steps_chart
from bitgolf.report.web_page import chart_card, table

SMALL_SECTIONS = "small sections"
SMALLEST_AREA = 0.01
"""Share of an artifact below which its sections are drawn as one area."""


def run_charts(contents: ReportContents) -> list[str]:
    """The cards of all charts for which a run has numbers."""
    cards = (
        _loss_card(contents),
        _bpb_card(contents.result),
        _bytes_card(contents),
        _compressors_card(contents.result),
        _time_card(contents.result),
    )
    return [card for card in cards if card]


def _loss_card(contents: ReportContents) -> str:
    result, (losses, phases) = contents.result, contents.training
    finite = [loss for _, loss in losses if math.isfinite(loss)]
    if not losses:
        return ""
    title = "Training loss"
    note = f"{result.steps:,} steps, {result.tokens:,} tokens, {result.training_clock.train:,.1f} s of training."
    if missing := len(losses) - len(finite):
        note += f" {missing:,} of {len(losses):,} logged losses are not finite and are not drawn."
    if not finite:
        return chart_card(title, "", note)
    last = finite[-max(1, len(finite) // 10) :]
    ends = f"{finite[0]:.4f} nats per token at the start, {sum(last) / len(last):.4f} in the last tenth"
    levels = _held_out_levels(result)
    note += f" {ends}, {min(finite):.4f} at least."
    note += " Dashed: held-out text, bits per byte converted to nats per token." if levels else ""
    note += " Dotted: a phase of training begins." if phases else ""
    validation = contents.result.validation
    note += (
        f" Dots: held-out text during training, {validation[-1].bpb:.4f} bits per byte at last." if validation else ""
    )
    svg = line_chart(
        "loss",
        f"Line: training loss by step, {ends}",
        losses,
        labels=("step", "nats per token"),
        levels=levels,
        marks=[(step, f"{start:.0%}") for step, start in phases],
        dots=[(row.step, row.loss) for row in validation],
    )
    return chart_card(title, svg, note)


def _held_out_levels(result: RunResult) -> list[Level]:
    """bpb of the trained and of the packed weights, in nats per token of the held-out text."""
    if not result.methods or not result.methods[0].targets:
        return []
    first = result.methods[0]
    nats = math.log(2) * first.bytes / first.targets
    found = [(name, result.bpb.get(name)) for name in ("trained", "packed")]
    return [Level(bpb * nats, f"{name} {bpb:.4f} bpb") for name, bpb in found if bpb is not None and math.isfinite(bpb)]


def bpb_rows(result: RunResult) -> list[BarRow]:
    """Bits per byte by stage. A method whose score stands as `packed` is not repeated."""
    found = [(name, bpb) for name, bpb in result.bpb.items() if bpb is not None and math.isfinite(bpb)]
    always, packed = ("trained", "averaged", "packed"), result.bpb.get("packed")
    return [BarRow(name, bpb, f"{bpb:.4f}") for name, bpb in found if name in always or bpb != packed]


def _bpb_card(result: RunResult) -> str:
    rows = bpb_rows(result)
    if not rows:
        return ""
    text = ", ".join(f"{row.label} {row.text}" for row in rows)
    svg = steps_chart("bpb", f"Bits per byte by stage: {text}", rows, label="bits per byte")
    changes = ["", *(f"{row.value - before.value:+.4f}" for before, row in pairwise(rows))]
    cells = [(row.label, row.text, change) for row, change in zip(rows, changes, strict=True)]
    how = f" (method {result.methods[0].method})" if result.methods else ""
    note = (
        f"Held-out text, {result.held_out.bytes:,} bytes. From “packed”{how} on, the artifact is read back from disk."
    )
    return chart_card("Bits per byte by stage", svg, note, table(("stage", "bits per byte", "change"), cells))


def _bytes_card(contents: ReportContents) -> str:
    entries = sorted(contents.ledger, key=lambda entry: -entry.bytes)
    if not entries:
        return ""
    sizes, total = contents.result.bytes, sum(entry.bytes for entry in entries)
    areas = _areas(entries, total)
    svg = area_chart("bytes", "Areas: bytes of the artifact by section, as in the table", areas)
    note = (
        f"artifact.bg: {total:,} bytes, of which {sizes.total:,} count against the cap of {sizes.cap:,}"
        f" (all but the tokenizer)."
    )
    cells = [
        (e.name, f"{e.bytes:,}", "" if e.bits_per_element is None else f"{e.bits_per_element:.3f}") for e in entries
    ]
    columns, sums = ("section", "bytes", "bits per element"), ("total", f"{total:,}", "")
    by_name = {area.label: area_color(i) for i, area in enumerate(areas)}
    colors = [by_name.get(entry.name) or by_name[SMALL_SECTIONS] for entry in entries if entry.bytes]
    return chart_card("Bytes of the artifact", svg, note, table(columns, [*cells, sums], colors=colors))


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
    return chart_card("Against general compressors", svg, note, table(columns, cells))


def _time_card(result: RunResult) -> str:
    rows = [BarRow(stage, seconds, f"{seconds:,.1f} s") for stage, seconds in result.seconds.items()]
    if not rows:
        return ""
    clock, total = result.training_clock, sum(result.seconds.values())
    text = ", ".join(f"{row.label} {row.text}" for row in rows)
    svg = bar_chart("time", f"Seconds by stage: {text}", rows, label="seconds, wall time")
    limit = f" of at most {clock.limit:,.1f} s" if clock.limit else ", without a limit"
    note = (
        f"{total:,.1f} s in all. On the training clock, which excludes start-up and compilation:"
        f" {clock.total:,.1f} s{limit} ({clock.train:,.1f} s training, {clock.calibrate:,.1f} s calibration)."
    )
    cells = [(row.label, f"{row.value:,.1f}", f"{row.value / total:.1%}" if total else "") for row in rows]
    return chart_card("Time by stage", svg, note, table(("stage", "s", "share"), cells))
