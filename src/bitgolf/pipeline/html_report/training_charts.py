"""Charts of a training: loss, learning rate, time of a step, and time of the stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitgolf.pipeline.html_report.contents import ReportContents, TrainingCurve
from bitgolf.pipeline.result import RunResult
from bitgolf.report.charts.bars import BarRow, bar_chart
from bitgolf.report.charts.lines import Level, Ticks, line_chart, thinned
from bitgolf.report.events import ValidationRow
from bitgolf.report.figures import BETTER, WORSE
from bitgolf.report.web_page import chart_card, table

TABLE_ROWS = 20
"""About the number of rows in the table of a line."""
SHOWN_EVENTS = 100


def training_charts(contents: ReportContents) -> list[str]:
    """The cards for which a run has numbers."""
    cards = (_loss_card(contents), _rate_card(contents), _step_time_card(contents), _stages_card(contents.result))
    return [card for card in cards if card]


def _loss_card(contents: ReportContents) -> str:
    result, losses = contents.result, contents.training.losses
    finite = [loss for _, loss in losses if math.isfinite(loss)]
    if not losses:
        return ""
    title = "Training loss by step (nats per token)"
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
    note += " Dotted: a phase of training begins." if contents.training.phases else ""
    validation = result.validation
    last_bpb = f"{validation[-1].bpb:.4f} bits per byte at last" if validation else ""
    note += f" Dots: held-out text during training, {last_bpb}." if validation else ""
    svg = line_chart(
        "loss",
        f"Line: training loss by step, {ends}",
        losses,
        labels=("step", "nats per token"),
        levels=levels,
        marks=_phase_marks(contents.training),
        dots=[(row.step, row.loss) for row in validation],
    )
    numbers = _line_table(losses, ("up to step", "mean loss", "least", "largest"), ".4f")
    return chart_card(title, svg, note, numbers + _validation_table(validation))


def _validation_table(rows: Sequence[ValidationRow]) -> str:
    """Scores of held-out text during training; "" if there are none."""
    cells = [
        (f"{row.step:,}", row.weights, f"{row.bpb:.4f}", f"{row.loss:.4f}", f"{row.targets:,}")
        for row in rows[:: 1 + len(rows) // SHOWN_EVENTS]
    ]
    columns = ("step", "weights", "held-out bits per byte", "nats per token", "tokens")
    return table(columns, cells, text_columns=2) if cells else ""


def _phase_marks(training: TrainingCurve) -> list[tuple[float, str]]:
    return [(step, f"{start:.0%}") for step, start in training.phases]


def _line_table(points: Sequence[tuple[float, float]], columns: Sequence[str], form: str) -> str:
    """About `TABLE_ROWS` rows: means, least and largest values of successive points."""
    buckets = [bucket for run in thinned(points, TABLE_ROWS) for bucket in run]
    return table(columns, [(f"{b.x:,.0f}", *(format(y, form) for y in (b.mean, b.low, b.high))) for b in buckets])


def _held_out_levels(result: RunResult) -> list[Level]:
    """bpb of the trained and of the packed weights, in nats per token of the held-out text."""
    if not result.methods or not result.methods[0].targets:
        return []
    first = result.methods[0]
    nats = math.log(2) * first.bytes / first.targets
    found = [(name, result.bpb.get(name)) for name in ("trained", "packed")]
    return [Level(bpb * nats, f"{name} {bpb:.4f} bpb") for name, bpb in found if bpb is not None and math.isfinite(bpb)]


def _rate_card(contents: ReportContents) -> str:
    factors, rates = contents.training.rate_factors, contents.learning_rates
    if not factors:
        return ""
    largest, last = max(value for _, value in factors), factors[-1][1]
    ends = f"{factors[0][1]:.4g} at the start, {largest:.4g} at most, {last:.4g} at the end"
    svg = line_chart(
        "rate",
        f"Line: factor of the learning rates by step, {ends}",
        factors,
        labels=("step", "factor of each rule's learning rate"),
        marks=_phase_marks(contents.training),
        from_zero=True,
    )
    note = f"The schedule of the recipe at the logged steps: {ends}. It multiplies the learning rate of every rule."
    rules = table(("rule of the optimizer", "learning rate", "largest", "last"),
                  [(rule, f"{lr:.4g}", f"{lr * largest:.4g}", f"{lr * last:.4g}") for rule, lr in rates])  # fmt: skip
    numbers = _line_table(factors, ("up to step", "mean factor", "least", "largest"), ".4f")
    return chart_card("Learning rate by step (factor)", svg, note, (rules if rates else "") + numbers)


def _step_time_card(contents: ReportContents) -> str:
    training = contents.training
    points = [(time.step, 1000 * time.seconds) for time in training.step_times]
    if not points:
        return ""
    ordered = sorted(ms for _, ms in points)
    middle, most = ordered[len(ordered) // 2], ordered[-1]
    kinds = [(training.checkpoints, BETTER, "checkpoint"), (training.recompilations, WORSE, "recompilation")]
    svg = line_chart(
        "steptime",
        f"Line: milliseconds per step, median {middle:,.1f}, at most {most:,.1f}",
        points,
        labels=("step", "ms per step, wall time"),
        marks=_phase_marks(training),
        ticks=[Ticks(steps, color) for steps, color, _ in kinds if steps],
        from_zero=True,
    )
    note = f"Median {middle:,.1f} ms, at most {most:,.1f} ms; steps that were logged together have their mean."
    for steps, color, kind in kinds:
        word = "green" if color is BETTER else "red"
        note += f" Triangles in {word}: {len(steps):,} {kind}{'s' * (len(steps) != 1)}." if steps else ""
    note += " Dotted: a phase of training begins." if training.phases else ""
    rows = _event_rows(training)
    events = table(("step", "event"), rows[:SHOWN_EVENTS], text_columns=2) if rows else ""
    numbers = _line_table(points, ("up to step", "mean ms", "least", "largest"), ",.1f")
    return chart_card("Time of a step (ms)", svg, note, events + numbers)


def _event_rows(training: TrainingCurve) -> list[tuple[str, str]]:
    """What happened during a training, by step."""
    found = [(0, f"compiled the graph from {start:.0%} of the run on, {s:,.1f} s before the clock")
             for start, s in training.warm_ups]  # fmt: skip
    found += [(step, f"a phase begins ({start:.0%} of the run)") for step, start in training.phases]
    found += [(step, "a graph is compiled within the step") for step in training.recompilations]
    found += [(step, "checkpoint") for step in training.checkpoints]
    return [(f"{step:,}", event) for step, event in sorted(found)]


def _stages_card(result: RunResult) -> str:
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
    return chart_card("Time by stage (s)", svg, note, table(("stage", "s", "share"), cells))
