"""The charts of a comparison: scores by group, scores against bytes and time, and losses over each other.

Scores on different validation text, and losses on different data, are never in one chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bitgolf.report.charts.lines import Line, lines_chart
from bitgolf.report.charts.points import DotRow, ScatterPoint, dot_chart, pareto_frontier, scatter_chart
from bitgolf.report.web_page import chart_card, table
from bitgolf.store.comparison import MeasureSummary, RunGroup, group_letter, summary_of
from bitgolf.store.comparison_page.loss_curves import LossCurve
from bitgolf.store.entry import RunEntry

SHOWN_RUNS = 500


class ScoredRun(NamedTuple):
    """A run with a score. group: number of its group."""

    run: RunEntry
    group: int
    bpb: float


def scored_by_text(groups: Sequence[RunGroup]) -> dict[str, list[ScoredRun]]:
    """Validation text -> runs that were scored on it. Runs whose text is not known are left out."""
    found = dict[str, list[ScoredRun]]()
    for number, group in enumerate(groups):
        for run in group.runs:
            if run.text and run.best_bpb is not None:
                found.setdefault(run.text, []).append(ScoredRun(run, number, run.best_bpb))
    return found


def score_charts(name: str, scored: Sequence[ScoredRun], groups: Sequence[RunGroup]) -> list[str]:
    """The cards of runs with the same validation text. name: prefix of ids, unique on the page."""
    cards = (
        _groups_card(name, scored, groups),
        _trade_off_card(f"{name}bytes", scored, "bytes", "bytes of the artifact", "bytes"),
        _trade_off_card(
            f"{name}time", scored, "training_seconds", "seconds on the training clock", "training time (s)"
        ),
    )
    return [card for card in cards if card]


def _groups_card(name: str, scored: Sequence[ScoredRun], groups: Sequence[RunGroup]) -> str:
    rows, cells = list[DotRow](), list[tuple[str, ...]]()
    for number in sorted({one.group for one in scored}):
        values = [one.bpb for one in scored if one.group == number]
        summary = summary_of(values)
        label = f"{group_letter(number)} {groups[number].name.rsplit('/', 1)[-1]}"
        rows.append(DotRow(label, values, number, summary.mean, summary.deviation))
        cells.append((f"{group_letter(number)} {groups[number].name}", str(len(values)), *_summary_cells(summary)))
    title = "Score by group (bits per byte)"
    svg = dot_chart(f"{name}groups", f"Dots: {title}, as in the table", rows, label="bits per byte")
    note = (
        "One dot for each run: its best score of the packed weights. Lines: mean, and one standard deviation around it."
    )
    return chart_card(title, svg, note, table(("group", "runs", "mean", "standard deviation"), cells))


def _summary_cells(summary: MeasureSummary) -> tuple[str, str]:
    return f"{summary.mean:.5f}", "" if summary.deviation is None else f"{summary.deviation:.5f}"


def _trade_off_card(name: str, scored: Sequence[ScoredRun], measure: str, label: str, short: str) -> str:
    """Scores against a measure of which less is better, for at least two runs that have it."""
    known = [(one, float(value)) for one in scored if (value := getattr(one.run, measure)) is not None]
    if len(known) < 2:
        return ""
    points = [ScatterPoint(value, one.bpb, one.group) for one, value in known]
    frontier = set(pareto_frontier([point[:2] for point in points]))
    title = f"Score against {short}"
    svg = scatter_chart(name, f"Points: {title}, as in the table", points, labels=(label, "bits per byte"))
    note = (
        f"Circles: the Pareto frontier, {len(frontier)} of {len(points)} runs that no other run beats in both."
        " Lower is better in both."
    )
    order = sorted(range(len(known)), key=lambda i: points[i])[:SHOWN_RUNS]
    cells = [
        (known[i][0].run.folder, group_letter(points[i].series), f"{points[i].x:,.0f}", f"{points[i].y:.5f}", "yes" if i in frontier else "")
        for i in order
    ]  # fmt: skip
    return chart_card(
        title, svg, note, table(("run", "group", label, "bits per byte", "frontier"), cells, text_columns=2)
    )


def loss_charts(name: str, curves: Sequence[LossCurve]) -> list[str]:
    """The cards of runs on the same data: by step, and by time where the logs have it."""
    last = [(c.folder, group_letter(c.group), c.rows[-1]) for c in curves]
    cells = [
        (folder, letter, f"{row.step:,}", f"{row.training_seconds:,.1f}", f"{row.loss:.4f}")
        for folder, letter, row in last
    ]
    columns = ("run", "group", "steps", "seconds", "last loss")
    numbers = table(columns, cells[:SHOWN_RUNS], text_columns=2)
    labels = [("step", "step"), ("seconds on the training clock", "time")]
    by_step = [Line([(row.step, row.loss) for row in c.rows], c.group) for c in curves]
    by_time = [Line([(row.training_seconds, row.loss) for row in c.rows], c.group) for c in curves]
    note = "One line for each run, the mean of successive steps. The highest tenth of the losses is above the axis."
    cards = []
    for (axis, word), lines in zip(labels, (by_step, by_time), strict=True):
        title = f"Training loss by {word} (nats per token)"
        svg = lines_chart(
            f"{name}{word}", f"Lines: {title} of {len(lines)} runs", lines, labels=(axis, "nats per token")
        )
        cards.append(chart_card(title, svg, note, numbers))
    return [*cards, *_validation_cards(name, curves)]


def _validation_cards(name: str, curves: Sequence[LossCurve]) -> list[str]:
    """Scores of held-out text during training, a card for each number of tokens that was scored."""
    cards = []
    for targets in sorted({row.targets for curve in curves for row in curve.validation}):
        title = f"Validation on {targets:,} tokens during training (bits per byte)"
        own = [(curve, [row for row in curve.validation if row.targets == targets]) for curve in curves]
        lines = [Line([(row.step, row.bpb) for row in rows], curve.group) for curve, rows in own if rows]
        svg = lines_chart(f"{name}validation{targets}", f"Lines: {title}", lines, labels=("step", "bits per byte"))
        cells = [
            (curve.folder, group_letter(curve.group), f"{row.step:,}", f"{row.training_seconds:,.1f}", f"{row.bpb:.4f}")
            for curve, rows in own
            for row in rows
        ]
        columns = ("run", "group", "step", "training s", "bits per byte")
        note = "One line for each run. The highest tenth of the scores is above the axis."
        cards.append(chart_card(title, svg, note, table(columns, cells[:SHOWN_RUNS], text_columns=2)))
    return cards
