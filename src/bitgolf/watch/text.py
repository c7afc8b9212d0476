"""The state of a watched run as lines of text."""

from __future__ import annotations

import time

from bitgolf.errors import printable
from bitgolf.report.progress import Progress, duration
from bitgolf.report.text_chart import text_chart
from bitgolf.report.wrapping import wrap
from bitgolf.watch.state import RunState, RunView

CHART_LINES = 8
LAST_WARNINGS, LAST_SCORES = 3, 4
SILENCE_SECONDS = 60
"""Seconds after which the time since the last event is shown."""


def view_lines(view: RunView, *, width: int, braille: bool = True) -> list[str]:
    """Return the lines of a run's state: what it does, stages, training with a chart of its loss, scores, warnings."""
    state = view.state
    if state.status == "not begun":
        return [printable(f"{state.run}: not begun")]
    dots = [(row.step, row.loss) for row in state.validation]
    chart = text_chart(view.losses, width=min(width, 100), height=CHART_LINES, braille=braille, dots=dots)
    title = ["", "training loss by step, nats per token" + (" (dots: held-out text)" if dots else "")] if chart else []
    paragraphs = [_headline(state), *_stage_lines(state), *_training_lines(state)]
    warnings = [f"warning: {message}" for message in state.warnings[-LAST_WARNINGS:]]
    before, after = (
        [part for text in given for part in wrap(text, width, rest="  ")] for given in (paragraphs, warnings)
    )
    lines = [*before, *title, *chart, *([""] if chart and after else []), *after]
    return [printable(line) for line in lines]  # texts of a log may hold anything


def current_progress(state: RunState) -> Progress:
    """The state of a run as the line that is shown while a command runs."""
    if state.stage != "train":
        return Progress(state.stage or "start")
    return Progress("train", state.share, state.seconds_left, tuple(_training_facts(state)))


def _headline(state: RunState) -> str:
    name = ", ".join(filter(None, (state.recipe, f"seed {state.seed}" if state.seed is not None else "")))
    status = f"{state.status}: {state.reason}" if state.reason else state.status
    silence = time.time() - state.updated if state.updated and state.status == "running" else 0.0
    quiet = f", no event for {duration(silence)}" if silence > SILENCE_SECONDS else ""
    return f"{state.run} ({name}): {status}{quiet}" if name else f"{state.run}: {status}{quiet}"


def _stage_lines(state: RunState) -> list[str]:
    done = [f"{stage} {seconds:,.1f} s" if seconds else f"{stage} reused" for stage, seconds in state.stages.items()]
    current = [f"{state.stage} …"] if state.stage not in ("", *state.stages) and not state.over else []
    stages = [f"stages: {', '.join([*done, *current])}"] if done or current else []
    scores = [f"{method} {bpb:.4f} bpb" for method, bpb in state.bpb.items()]
    return stages + ([f"packed: {', '.join(scores)}"] if scores else [])


def _training_lines(state: RunState) -> list[str]:
    """Step, share, time left and speed of training, and the scores of held-out text."""
    if not state.step:
        return []
    progress = Progress("train", state.share, state.seconds_left)
    limit = f" of {state.time_limit_seconds:,.1f} s" if state.time_limit_seconds else " s"
    facts = [
        progress.percent,
        progress.time_left,
        *_training_facts(state),
        f"clock {state.training_seconds:,.1f}{limit}",
    ]
    lines = [f"training: {', '.join(filter(None, facts))}"]
    if state.validation:
        last = [f"{row.bpb:.4f} after step {row.step:,}" for row in state.validation[-LAST_SCORES:]]
        lines.append(f"validation, bits per byte: {', '.join(last)}")
    return lines


def _training_facts(state: RunState) -> list[str]:
    step = f"step {state.step:,}" + (f" of {state.steps:,}" if state.steps else "")
    speed = f"{state.tokens_per_second:,.0f} tokens/s" if state.tokens_per_second else ""
    loss = "" if state.loss is None else f"loss {state.loss:.3f}"
    return [fact for fact in (step, loss, speed) if fact]
