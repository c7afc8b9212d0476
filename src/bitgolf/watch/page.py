"""The state of a watched run as a web page, which browsers load again while the run goes on."""

from __future__ import annotations

import math

from bitgolf.report.charts.lines import line_chart
from bitgolf.report.progress import duration
from bitgolf.report.web_page import (
    Tile,
    bullets,
    chart_card,
    chart_grid,
    escape,
    section,
    table,
    tiles,
    web_page,
)
from bitgolf.watch.state import RunState, RunView

RELOAD_SECONDS = 5


def render_view(view: RunView) -> str:
    """Return the HTML page of a run's state. The same state gives the same page, byte for byte."""
    state = view.state
    title = state.recipe or state.run
    about = " · ".join(
        filter(None, (state.run, state.hash, f"seed {state.seed}" if state.seed is not None else "", state.reason))
    )
    stages = [(stage, f"{seconds:,.1f}" if seconds else "reused") for stage, seconds in state.stages.items()]
    scores = [(method, f"{bpb:.4f}") for method, bpb in state.bpb.items()]
    body = (
        f"<header>\n<h1>{escape(title)}</h1>\n<p class=subtitle>{escape(about)}</p>\n{tiles(_tiles(state))}</header>\n"
        f"{section('Training', chart_grid(_charts(view)))}"
        f"{section('Packed model', table(('method', 'bits per byte'), scores) if scores else '')}"
        f"{section('Stages', table(('stage', 's'), stages) if stages else '')}"
        f"{section('Warnings', bullets(state.warnings))}"
    )
    return web_page(f"bitgolf: {title}, {state.status}", body, reload_seconds=0 if state.over else RELOAD_SECONDS)


def _tiles(state: RunState) -> list[Tile]:
    good = {"finished": True, "failed": False, "ended": False}.get(state.status)
    doing = f"stage {state.stage}" if state.stage else ""
    found = [Tile("Status", state.status, doing, good=good)]
    if state.step:
        step = f"of {state.steps:,} steps" if state.steps else f"{state.tokens:,} tokens"
        found.append(Tile("Step", f"{state.step:,}", step, state.share))
        limit = f"of {state.time_limit_seconds:,.1f} s" if state.time_limit_seconds else "no limit"
        left = f", {duration(state.seconds_left)} left" if state.seconds_left is not None else ""
        found.append(Tile("Training clock", f"{state.training_seconds:,.1f} s", limit + left))
        speed = f"{state.tokens_per_second:,.0f} tokens/s" if state.tokens_per_second else ""
        found.append(Tile("Training loss", f"{state.loss or math.nan:.4f}", f"nats per token; {speed}"))
    if state.validation:
        last = state.validation[-1]
        note = f"bits per byte after step {last.step:,}, {last.weights} weights, {last.targets:,} targets"
        found.append(Tile("Validation", f"{last.bpb:.4f}", note))
    return found


def _charts(view: RunView) -> list[str]:
    """The training loss, with the scores of held-out text, as a table too."""
    state, finite = view.state, [loss for _, loss in view.losses if math.isfinite(loss)]
    if not finite:
        return []
    ends = f"{finite[0]:.4f} nats per token at the start, {finite[-1]:.4f} at last"
    svg = line_chart(
        "loss",
        f"Line: training loss by step, {ends}",
        view.losses,
        labels=("step", "nats per token"),
        marks=[(step, f"{start:.0%}") for step, start in view.phases],
        dots=[(row.step, row.loss) for row in state.validation],
    )
    rows = [(f"{r.step:,}", f"{r.training_seconds:,.1f}", f"{r.bpb:.4f}", f"{r.loss:.4f}") for r in state.validation]
    columns = ("step", "training s", "bits per byte", "nats per token")
    note = f"{ends}." + (" Dots: held-out text." if rows else "") + (" Dotted: a phase begins." if view.phases else "")
    body = table(columns, rows, text_columns=0) if rows else ""
    return [chart_card("Training loss", svg, note, body)]
