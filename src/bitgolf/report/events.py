"""Reading of `log.jsonl`, the events of a run. A line that is not a whole event is skipped: a log may end torn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class LogEvents(NamedTuple):
    """The events of a log, in order, and the number of lines that are not whole events."""

    events: list[dict[str, Any]]
    skipped: int

    def explanation(self) -> str:
        """What was skipped, for a warning; "" if nothing was."""
        lines = (
            "1 line is not a whole event and was"
            if self.skipped == 1
            else f"{self.skipped:,} lines are not whole events and were"
        )
        return f"log.jsonl: {lines} skipped (a full disk or a loss of power leaves such lines)" if self.skipped else ""


def read_events(log: Path) -> LogEvents:
    """Read a `log.jsonl`. A missing file has no events."""
    lines = log.read_bytes().split(b"\n") if log.exists() else []
    found = [parse_event(line) for line in lines if line.strip()]
    events = [event for event in found if event is not None]
    return LogEvents(events, len(found) - len(events))


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line of a log; None if the line is not a whole event."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


class StepRow(NamedTuple):
    """A training step. loss: of its batch, in nats per token. tokens, training_seconds: from the start, with this step."""

    step: int
    loss: float
    tokens: int
    training_seconds: float


def training_steps(events: Iterable[dict[str, Any]]) -> list[StepRow]:
    """The steps of the last training in a log; resumed steps replace those before them."""
    found: list[StepRow] = []
    for event in events:
        if event["event"] == "step" and (row := _step_row(event)):
            if found and row.step <= found[-1].step:
                found = [earlier for earlier in found if earlier.step < row.step]
            found.append(row)
    return found


def _step_row(event: dict[str, Any]) -> StepRow | None:
    """The row of an event `step`, None without a step and a loss. Other fields that are missing are 0."""
    step, loss, tokens, seconds = (event.get(name) for name in StepRow._fields)
    if not (isinstance(step, int) and isinstance(loss, float)):
        return None
    return StepRow(
        step,
        loss,
        tokens if isinstance(tokens, int) else 0,
        float(seconds) if isinstance(seconds, int | float) else 0.0,
    )


class ValidationRow(msgspec.Struct, frozen=True):
    """A score of held-out text during training. bpb: bits per byte; loss: nats per token.

    training_seconds: on the training clock. targets: tokens that were scored. weights: `trained` or `averaged`.
    """

    step: int
    training_seconds: float
    bpb: float
    loss: float
    targets: int
    weights: str


def validation_rows(events: Iterable[dict[str, Any]]) -> list[ValidationRow]:
    """The scores of the last training in a log. A step that is trained again removes the scores from it on."""
    found: list[ValidationRow] = []
    for event in events:
        kind, step = event["event"], event.get("step")
        if kind in ("step", "validation") and isinstance(step, int):
            while found and found[-1].step >= step:
                found.pop()
            if kind == "validation" and (row := _validation_row(event)):
                found.append(row)
    return found


def _validation_row(event: dict[str, Any]) -> ValidationRow | None:
    """The row of an event `validation`, None unless it has all fields."""
    try:
        return msgspec.convert(event, ValidationRow)
    except msgspec.ValidationError:
        return None


def training_losses(events: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss in nats per token) of the `training_steps` in a log."""
    return [(row.step, row.loss) for row in training_steps(events)]


class MeasuredStep(NamedTuple):
    """Mean seconds of a step, over the steps up to this one whose end the log does not tell apart."""

    step: int
    seconds: float


def step_times(rows: Sequence[StepRow]) -> list[MeasuredStep]:
    """Seconds per step by step. Steps that were logged together, as on a GPU, have one time."""
    found, last_step, last_seconds = list[MeasuredStep](), 0, 0.0
    for seconds, group in groupby(rows, key=lambda row: row.training_seconds):
        step = list(group)[-1].step
        if seconds > last_seconds and step > last_step:
            found.append(MeasuredStep(step, (seconds - last_seconds) / (step - last_step)))
        last_step, last_seconds = step, seconds
    return found


def training_phases(events: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, fraction of the run) at which each phase of the last training began, those before a resumption included."""
    pairs = [(event["step"], event.get("phase_start")) for event in _of_last_training(events, "phase")]
    return [(step, float(start)) for step, start in pairs if isinstance(start, float | int)]


def training_checkpoints(events: Iterable[dict[str, Any]]) -> list[int]:
    """Steps after which the last training wrote a checkpoint."""
    return [event["step"] for event in _of_last_training(events, "checkpoint")]


def recompilations(events: Iterable[dict[str, Any]]) -> list[int]:
    """Steps of the last training in which a graph was compiled, on the training clock."""
    return [event["step"] for event in _of_last_training(events, "recompile")]


def _of_last_training(events: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Events of a kind with a step. A resumed training keeps those before the step at which it continued."""
    earlier, found = list[dict[str, Any]](), list[dict[str, Any]]()
    for event in events:
        step = event.get("step")
        if event["event"] == "stage" and event.get("stage") == "train":
            earlier, found = found, []
        elif not isinstance(step, int):
            continue
        elif event["event"] == "resume":
            found = [one for one in earlier if one["step"] < step + (kind == "checkpoint")]
        elif event["event"] == kind:
            found.append(event)
    return found


def warm_ups(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """(fraction of the run, seconds) of each graph that was compiled before the clock of the last training started."""
    found: list[tuple[float, float]] = []
    for event in events:
        start, seconds = event.get("phase_start"), event.get("seconds")
        if event["event"] == "stage" and event.get("stage") == "train":
            found = []
        elif event["event"] == "warm_up" and isinstance(start, float | int) and isinstance(seconds, float | int):
            found.append((float(start), float(seconds)))
    return found


def stage_ends(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Stage -> time of its last end, in seconds since 1970."""
    ends = [event for event in events if event["event"] == "stage_done"]
    pairs = [(event.get("stage"), event.get("time")) for event in ends]
    return {stage: time for stage, time in pairs if isinstance(stage, str) and isinstance(time, float | int)}


def current_warnings(events: Iterable[dict[str, Any]]) -> list[str]:
    """Messages of the warnings of the last execution of each stage, and of those before any stage, each once."""
    found: dict[str, list[str]] = {}
    recipe, stage = None, ""
    for event in events:
        kind, name, message = event["event"], event.get("stage"), event.get("message")
        if kind == "run":
            found, recipe, stage = (found if event.get("hash") == recipe else {}), event.get("hash"), ""
        elif kind == "stage" and isinstance(name, str):
            stage, found[name] = name, []
        elif kind == "warning" and isinstance(message, str):
            found.setdefault(stage, []).append(message)
    return list(dict.fromkeys(message for messages in found.values() for message in messages))


TRAINING_EVENTS = frozenset({"step", "phase", "validation"})
"""Kinds of events that describe a training step by step."""


def training_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of the last training, step by step; a resumption replaces those after its checkpoint."""
    earlier: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for event in events:
        kind, step = event["event"], event.get("step")
        if kind == "stage" and event.get("stage") == "train":
            earlier, found = found, []
        elif kind == "resume" and isinstance(step, int):
            found = [old for old in earlier if _is_before(old, step)]
        elif kind in TRAINING_EVENTS and isinstance(step, int):
            found.append(event)
    return found


def _is_before(event: dict[str, Any], resumed: int) -> bool:
    """Whether an event is of a step up to `resumed`. A phase that starts with the next step has the number `resumed`."""
    return event["step"] < resumed if event["event"] == "phase" else event["step"] <= resumed
